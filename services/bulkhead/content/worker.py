"""Processes of our own that read what strangers wrote, seen from the service that starts them.

They are started by vfork(2), as `subprocess` does it. uvloop forks, which wants all of the service's memory mappings to
itself: while a thread of it waits in the midst of one, as who writes records does on a disk that stands still (SQLite's
index is mapped memory), a fork waits, and whoever touches memory then waits for the fork.

They are spoken with through sockets. Of a pipe's end that is given to it uvloop closes the descriptor twice, and
between the two another thread may have opened a file of that number, which is closed then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, PIPE

from bulkhead import errors
from bulkhead.errors import BulkheadError, Internal

_SOURCE_ROOT = str(Path(__file__).resolve().parents[2])
# mallopt(3): pieces of an archive are used again and again, and not given back to the kernel and zeroed each time.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}


@dataclass(slots=True, eq=False)
class Worker:
    """One that was started: what of its standard streams is ours, and its end. Use `end` in any case."""

    process: subprocess.Popen[bytes]
    ended: asyncio.Future[None]
    stdin: asyncio.StreamWriter | None = None
    stdout: asyncio.StreamReader | None = None
    stderr: asyncio.StreamReader | None = None
    writers: list[asyncio.StreamWriter] = field(default_factory=list)


async def start(
    module: str,
    name: str,
    arguments: Sequence[str] = (),
    *,
    source: int = PIPE,
    output: int = PIPE,
    complaints: int = DEVNULL,
    kept: Sequence[int] = (),
) -> Worker:
    """A worker that runs `module` and sees nothing of this process but what it is given. Raises Internal.

    `name` is for the error's text; `source`, `output` and `complaints` are its standard streams, each a descriptor or
    PIPE for one of ours, `kept` the descriptors beside them.
    """
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        try:
            streams = [_Stream.of(wanted, theirs, ours) for wanted in (source, output, complaints)]
            process = _started([sys.executable, "-P", "-s", "-m", module, *arguments], streams, kept)
            worker = Worker(process, _end_of(process))
        except OSError as error:
            raise Internal(f"cannot start {name} worker: {(error.strerror or '').lower()}") from error
        try:
            await _connect(worker, *streams)
        except BaseException:
            await end(worker)
            raise
        ours.pop_all()  # they are the loop's
    return worker


@dataclass(frozen=True, slots=True)
class _Stream:
    """A standard stream of a worker: the worker's end, and ours when it is one of ours."""

    theirs: int
    ours: socket.socket | None = None

    @classmethod
    def of(cls, wanted: int, theirs: contextlib.ExitStack, ours: contextlib.ExitStack) -> _Stream:
        if wanted != PIPE:
            return cls(wanted)
        end, other = socket.socketpair()
        return cls(theirs.enter_context(other).fileno(), ours.enter_context(end))


def _started(command: Sequence[str], streams: Sequence[_Stream], kept: Sequence[int]) -> subprocess.Popen[bytes]:
    source, output, complaints = (stream.theirs for stream in streams)
    return subprocess.Popen(
        command,
        stdin=source,
        stdout=output,
        stderr=complaints,
        cwd="/",
        env={"PYTHONPATH": _SOURCE_ROOT, **_MALLOC},
        pass_fds=kept,
    )


def _end_of(process: subprocess.Popen[bytes]) -> asyncio.Future[None]:
    """Done when the process has ended and is reaped. Raises OSError, and then it has."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        process.kill()
        process.communicate()
        raise

    def reap() -> None:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        process.wait()
        if not ended.done():
            ended.set_result(None)

    loop.add_reader(pidfd, reap)
    return ended


async def _connect(worker: Worker, source: _Stream, output: _Stream, complaints: _Stream) -> None:
    if source.ours is not None:
        _, worker.stdin = await _connected(worker, source.ours)
    if output.ours is not None:
        worker.stdout, _ = await _connected(worker, output.ours)
    if complaints.ours is not None:
        worker.stderr, _ = await _connected(worker, complaints.ours)


async def _connected(worker: Worker, ours: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    worker.writers.append(writer)
    return reader, writer


async def tell(worker: Worker, document: bytes) -> None:
    """Write what it is to do. A caller that is cancelled meanwhile leaves no worker behind.

    One that died before it read everything tells why where its end is heard of.
    """
    assert worker.stdin is not None
    try:
        with contextlib.suppress(ConnectionError):
            worker.stdin.write(document)
            await worker.stdin.drain()
    except BaseException:
        await end(worker)
        raise


async def end(worker: Worker) -> None:
    """Kill the worker; it is gone when this returns, and also when it is cancelled."""
    worker.process.kill()
    cancelled: asyncio.CancelledError | None = None
    while not worker.ended.done():
        try:
            await asyncio.wait([worker.ended])
        except asyncio.CancelledError as error:
            cancelled = error
    for writer in worker.writers:
        writer.close()
    if cancelled is not None:
        raise cancelled


def error_told(name: str, message: str) -> BulkheadError:
    """The error of our vocabulary that a worker names; Internal for any other word."""
    kind = getattr(errors, name, Internal)
    if not (isinstance(kind, type) and issubclass(kind, BulkheadError)):
        kind = Internal
    return kind(message)
