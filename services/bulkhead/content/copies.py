"""Files of containers copied out and in, each by a process of its own that is confined to that container's files."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import asdict, dataclass
from subprocess import DEVNULL, PIPE

from bulkhead.content import trees
from bulkhead.content.blocking import Blocking
from bulkhead.content.container_view import Layers, Place
from bulkhead.content.worker import Worker, end, start, tell
from bulkhead.errors import Internal

_WORKER = "bulkhead.content.copy_worker"
_PIECE = 1 << 20
_HEAD = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A path of a container, as its user wrote it; `ref` is what he called the container.

    `keep_kinds` and `owner` are for filling only; see `copy_in.Target`.
    """

    ref: str
    path: str
    layers: Layers
    places: tuple[Place, ...]
    read_only: bool = False
    keep_kinds: bool = False
    owner: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PathStat:
    """What is at a path. `mode` as in stat(2), `mtime` in Unix nanoseconds; where a symlink leads in the end."""

    name: str
    size: int
    mode: int
    mtime: int
    link_target: str = ""


async def look(wanted: Wanted, blocking: Blocking) -> PathStat:
    """What is there. Raises NotFound with Docker's text, InvalidArgument, Internal, ResourceExhausted."""
    async with _reading("look", wanted) as source:
        return _stat(await blocking.run(_line, source))


async def read(wanted: Wanted, blocking: Blocking) -> AsyncGenerator[PathStat | bytes, None]:
    """What is there, then its tar, whose names begin with the path's last part. Raises as `look`."""
    async with _reading("read", wanted) as source:
        yield _stat(await blocking.run(_line, source))
        reading = trees.Reading(source)
        while piece := await blocking.run(reading.read, _PIECE):
            yield piece


async def fill(wanted: Wanted, inlet: socket.socket) -> None:
    """Unpack the archive, compressed or not, that comes to `inlet` (`content.inlets`) into the directory that is there.

    Raises NotFound and Forbidden with Docker's texts, InvalidArgument, for a damaged archive too, Internal,
    ResourceExhausted: what was unpacked by then stays, as with Docker.
    """
    worker = await _start("fill", wanted, output=DEVNULL, inlet=inlet.fileno())
    try:
        await trees.settle(worker)
    finally:
        await end(worker)


@contextlib.asynccontextmanager
async def _reading(want: str, wanted: Wanted) -> AsyncIterator[int]:
    """The worker's output; what it says went wrong is raised at the end, and before the first line."""
    receiving, sending = os.pipe()
    worker: Worker | None = None
    try:
        with contextlib.suppress(OSError):
            fcntl.fcntl(receiving, fcntl.F_SETPIPE_SZ, _PIECE)
        try:
            worker = await _start(want, wanted, output=sending)
        finally:
            os.close(sending)
        try:
            yield receiving
        except EOFError:
            await trees.settle(worker)
            raise Internal("cannot copy: the worker said nothing") from None
        await trees.settle(worker)
    finally:
        os.close(receiving)
        if worker is not None:
            await end(worker)


def _line(source: int) -> bytes:
    """The first line, which comes in one piece of its own. EOFError when there is none."""
    held = b""
    while not held.endswith(b"\n"):
        byte = os.read(source, 1)
        if not byte or len(held) > _HEAD:
            raise EOFError
        held += byte
    return held


def _stat(line: bytes) -> PathStat:
    return PathStat(**json.loads(line))


async def _start(want: str, wanted: Wanted, *, output: int, inlet: int | None = None) -> Worker:
    told = {
        **{name: value for name, value in asdict(wanted).items() if name not in ("layers", "places")},
        "layers": wanted.layers._asdict(),
        "places": [list(place) for place in wanted.places],
        "parent": os.getpid(),
        "want": want,
        "inlet": inlet,
    }
    kept = () if inlet is None else (inlet,)
    worker = await start(_WORKER, "copy", output=output, complaints=PIPE, kept=kept)
    await tell(worker, json.dumps(told).encode())
    assert worker.stdin is not None
    worker.stdin.close()
    return worker
