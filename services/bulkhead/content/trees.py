"""Container trees read by a process of their own: a walk over a million files must not hold up the manager."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from subprocess import PIPE

from bulkhead import errors
from bulkhead.content.blocking import Blocking
from bulkhead.content.upper import Changed, Kind
from bulkhead.content.worker import Worker, end, error_told, start, tell
from bulkhead.errors import Internal

_WORKER = "bulkhead.content.tree_worker"
_PIECE = 1 << 20
# What docker diff of a container answers must fit in memory, here and at the client.
MAX_CHANGES = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Where a container's files are: absolute paths, `lower` topmost first; `made` is the engine's own doing."""

    upper: str
    lower: Sequence[str]
    made: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """A worker's output, for whoever reads it in a thread."""

    fd: int

    def read(self, count: int) -> bytes:
        """`count` bytes, fewer at the end only; blocks. A pipe gives little at a time, and each piece has its price."""
        pieces, left = [], count
        while left and (piece := os.read(self.fd, left)):
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)


async def merged(tree: Tree, blocking: Blocking) -> AsyncGenerator[bytes, None]:
    """The tar of everything a container sees. Raises Internal, ResourceExhausted, InvalidArgument."""
    async with reading("tree", tree) as source:
        while piece := await blocking.run(source.read, _PIECE):
            yield piece


async def changes(tree: Tree, blocking: Blocking) -> list[Changed]:
    """What a container added, changed and deleted."""
    held = bytearray()
    async with reading("changes", tree) as source:
        while piece := await blocking.run(source.read, _PIECE):
            held += piece
            if len(held) > MAX_CHANGES:
                raise errors.ResourceExhausted("cannot list changes: there are too many")
    return [Changed(Kind(chr(record[0])), record[1:]) for record in bytes(held).split(b"\0")[:-1]]


@contextlib.asynccontextmanager
async def reading(want: str, tree: Tree) -> AsyncIterator[Reading]:
    """A worker that does what is wanted; left after the end of its output, it raises what went wrong there.

    Left in any other way, the worker is ended.
    """
    receiving, sending = os.pipe()
    worker: Worker | None = None
    try:
        with contextlib.suppress(OSError):
            fcntl.fcntl(receiving, fcntl.F_SETPIPE_SZ, _PIECE)
        try:
            worker = await _start(want, tree, sending)
        finally:
            os.close(sending)
        yield Reading(receiving)
        await settle(worker)
    finally:
        os.close(receiving)
        if worker is not None:
            await end(worker)


async def _start(want: str, tree: Tree, output: int) -> Worker:
    told = {"parent": os.getpid(), "want": want, "upper": tree.upper, "lower": [*tree.lower], "made": [*tree.made]}
    worker = await start(_WORKER, "tree", output=output, complaints=PIPE)
    await tell(worker, json.dumps(told).encode())
    assert worker.stdin is not None
    worker.stdin.close()
    return worker


async def settle(worker: Worker) -> None:
    """Raise what the worker says went wrong."""
    assert worker.stderr is not None
    said = (await worker.stderr.read()).decode(errors="replace").strip().rpartition("\n")[2].split()
    match said:
        case ["r"]:
            return
        case ["e", kind, message]:
            raise error_told(kind, bytes.fromhex(message).decode())
    raise Internal("cannot read tree: the worker died")
