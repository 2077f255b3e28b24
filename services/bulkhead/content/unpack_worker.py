"""The process that unpacks one layer: confined to its target before it reads the first byte.

Arguments: parent pid, target directory, expected diff id or "-", limits as size,entries,ratio,allowance, and the
descriptor of a pipe that tells how much of the layer is there, or "-". The layer is its stdin, a file; or, if the last
argument is "pipe", a pipe that a tar comes through as it is. On stdout it says, a line each, text as hex digits of its
bytes:

    p <bytes of the layer consumed>         now and then
    i <directory that no entry described>
    r <size> <entries> <diff id>            last, when all went well
    e <class of errors.py> <message>        last, when it did not

Imports stay few (no json, no dataclasses): their time is added to every layer.
"""

from __future__ import annotations

import errno
import os
import resource
import sys
from typing import NoReturn

from bulkhead import errors
from bulkhead.content import confine
from bulkhead.content.inflate import Codec, Following, Inflated, Limits, Reader, plain, preload, read_fd, stored
from bulkhead.content.layers import Applied, LayerWriter
from bulkhead.content.tarstream import TarStream
from bulkhead.model.refusals import reason

# Twice what the largest zstd window needs; an archive cannot make us take the host's memory.
_ADDRESS_SPACE = 2 << 30
_PROGRESS_STEP = 1 << 20
# What tells a codec.
_MAGIC = 8
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EFBIG})
# Refusals by the file system of what an entry says, which another archive would not meet.
_ENTRY_ERRORS = frozenset({errno.ENAMETOOLONG, errno.EINVAL, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EXDEV})


def main() -> NoReturn:
    """Unpack as told, answer on stdout, exit without running anything else."""
    try:
        _run(sys.argv[1:])
    except BaseException as error:
        kind, message = _told(error)
        _say(f"e {kind} {message.encode('utf-8', 'replace').hex()}")
    # Threads may still hold pieces of a refused archive: nothing of theirs is worth waiting for.
    os._exit(0)


def _run(arguments: list[str]) -> None:
    parent, target, expected, limits, marks = arguments
    confine.die_with_parent(int(parent))
    source = read_fd(0) if marks in ("-", "pipe") else Following(0, int(marks))
    codec = stored if marks == "pipe" else plain
    if codec is plain:
        preload(_magic(source))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    os.umask(0)
    # Whatever might still be imported must not come from the layer.
    sys.path.clear()
    sys.path_importer_cache.clear()
    sys.meta_path[:] = []
    confine.enter_private_root(target)
    size, entries, ratio, allowance = map(int, limits.split(","))
    bounds = Limits(size=size, entries=entries, ratio=ratio, allowance=allowance)
    applied, diff_id = _apply(source, codec, bounds)
    if expected not in ("-", diff_id):
        raise errors.DataLoss(f"cannot unpack layer: its content has diff id {diff_id}, not {expected}")
    for path in applied.implied:
        _say(f"i {path.hex()}")
    _say(f"r {applied.size} {applied.entries} {diff_id}")


def _magic(source: Reader) -> bytes:
    if isinstance(source, Following):
        source.wait(_MAGIC)
    return os.pread(0, _MAGIC, 0)


def _apply(source: Reader, codec: Codec, limits: Limits) -> tuple[Applied, str]:
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    inflated = Inflated(source, limits, consumed=_Progress(), codec=codec)
    tar = TarStream(inflated)
    applied = LayerWriter(root, max_entries=limits.entries, max_size=limits.size).apply(tar)
    tar.drain()
    return applied, f"sha256:{inflated.hexdigest()}"


class _Progress:
    """Tells the parent how far the layer was read, at most once per step."""

    def __init__(self) -> None:
        self._next = _PROGRESS_STEP

    def __call__(self, taken: int) -> None:
        if taken >= self._next:
            self._next = taken + _PROGRESS_STEP
            _say(f"p {taken}")


def _told(error: BaseException) -> tuple[str, str]:
    """(class, message) for the parent."""
    if isinstance(error, errors.BulkheadError):
        return type(error).__name__, str(error)
    if isinstance(error, MemoryError):
        return "InvalidArgument", "cannot unpack layer: it needs too much memory"
    if isinstance(error, OSError):
        kind = "ResourceExhausted" if error.errno in _FULL else "Internal"
        kind = "InvalidArgument" if error.errno in _ENTRY_ERRORS else kind
        return kind, f"cannot unpack layer: {reason(error, full='remove what is unused').lower()}"
    return "Internal", f"cannot unpack layer: {type(error).__name__}: {error}"


def _say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


if __name__ == "__main__":
    main()
