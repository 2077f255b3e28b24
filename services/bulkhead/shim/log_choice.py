"""Which log takes a container's output: a file, one that is a cache of what is shipped, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

from bulkhead.errors import ResourceExhausted
from bulkhead.model.refusals import reason
from bulkhead.shim.create_options import CreateOptions
from bulkhead.shim.journal import Journal
from bulkhead.shim.logs import JsonFile
from bulkhead.shim.loop import Loop
from bulkhead.shim.sinks import LogSink, LogTarget, NoLog
from bulkhead.shim.stdio import Streams


def open_sink(
    options: CreateOptions,
    kept: Mapping[str, int] | None,
    streams: Streams,
    loop: Loop,
    grown: Callable[[], None],
    *,
    terminal: bool,
) -> LogSink:
    """Made anew, or what an earlier shim had: descriptors `kept`. `grown` is called when there is more to read.

    Raises ResourceExhausted and Internal.
    """
    if not options.destination:
        return _open_file(options.log, kept, streams, loop, grown, terminal=terminal)
    from bulkhead.shim.shipping import BUFFER, Shipped, sender

    receiver = sender(options.destination)
    with ExitStack() as undo:
        cache = _open_file(options.log, kept, streams, loop, grown, terminal=terminal)
        undo.callback(cache.close)
        # An earlier shim has reached the receiver; it may be away just now.
        known = kept is not None
        shipped = Shipped(receiver, cache, loop, options.log_buffer or BUFFER, known=known)
        undo.pop_all()
    return shipped


def _open_file(
    target: LogTarget | None,
    kept: Mapping[str, int] | None,
    streams: Streams,
    loop: Loop,
    grown: Callable[[], None],
    *,
    terminal: bool,
) -> LogSink:
    """With the journal among the descriptors `kept`, else a new one."""
    if target is None:
        return NoLog()
    journal: Journal | None = None
    try:
        journal, left = Journal.inherited(kept or {}) or (Journal.make(terminal=terminal), None)
        return JsonFile(target, loop, streams, grown, journal, left)
    except OSError as error:
        if journal is not None:
            journal.close()
        raise ResourceExhausted(f"cannot open log {target.path}: {reason(error)}") from error
