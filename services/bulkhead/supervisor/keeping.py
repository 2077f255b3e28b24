"""Duplicates of containers' descriptors (shim.custody), held so that a shim's death loses no output and no exit code.

A shim that was launched here tells over the link that made it one, those that were there before us are dialled. What
ends without a word leaves an estate: the next shim of the container is given it. It is thrown away when the shim's
record is gone from the container's directory, as after a removal.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from bulkhead.linux import fdpass
from bulkhead.shim.app import SHIM_RECORD
from bulkhead.shim.custody import MOST_DESCRIPTORS, Estate
from bulkhead.supervisor.readiness import readable
from bulkhead.supervisor.spares import Spare

_LINE_LIMIT = 64 << 10
_SWEEP_SECONDS = 0.5
_LAST_WORDS_SECONDS = 5.0
_WISH = b'{"op":"keep"}\n'
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Keeping:
    """What is kept, by container."""

    def __init__(self, containers: Path) -> None:
        self._containers = containers
        self._kept: dict[str, Kept] = {}
        # Who is heard, by the place of his socket: a task that has dialled, or what is done when a link is over.
        self._followed: dict[str, asyncio.Future[Any]] = {}
        self._dialled: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup | None = None
        self._orphaned = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Entered when the shims that live already are being asked; left with everything closed."""
        try:
            async with asyncio.TaskGroup() as self._group:
                for path in self._containers.glob("*/stdio.sock"):
                    self.follow(str(path))
                sweep = self._group.create_task(self._sweep())
                try:
                    yield
                finally:
                    for task in (sweep, *self._dialled):
                        task.cancel()
        finally:
            self._group = None
            for kept in self._kept.values():
                kept.estate.close()
            self._kept.clear()

    def follow(self, place: str) -> None:
        """Keep for the shim whose stdio socket is there; harmless when that is done already."""
        if self._group is None or place in self._followed:
            return
        task = self._followed[place] = self._group.create_task(self._follow(place))
        self._dialled.add(task)
        task.add_done_callback(self._dialled.discard)
        task.add_done_callback(lambda task: self._is_over(place, task))

    def keep(self, container_id: str, place: str, spare: Spare) -> None:
        """Keep for the shim that `spare` has just become; its socket is dialled only if the link fails."""
        if not spare.confides:
            # It is of an older version.
            self.follow(place)
            return
        left = spare.left
        self._followed[place] = left
        spare.confidant = lambda said, received: self._confided(place, left, said, received)
        left.add_done_callback(lambda _: self._link_is_over(container_id, place, left))

    def hears(self, place: str) -> bool:
        """Whether a shim that has listened there may have something to say still."""
        return place in self._followed

    async def hear_out(self, place: str) -> None:
        """The shim there is dead: wait for its last words, so that `estate` is whole."""
        source = self._followed.get(place)
        if source is not None:
            await asyncio.wait((source,), timeout=_LAST_WORDS_SECONDS)

    def estate(self, container_id: str) -> Estate | None:
        """What is kept for the container; it stays ours."""
        kept = self._kept.get(container_id)
        return None if kept is None else kept.estate

    def _confided(self, place: str, source: asyncio.Future[bool], said: bytes, received: list[int]) -> None:
        """The container may have another shim by now."""
        told = _decode(said)
        if self._followed.get(place) is source:
            self._heard(place, told, received)
        else:
            Estate.labelled(told, received).close()

    def _link_is_over(self, container_id: str, place: str, source: asyncio.Future[bool]) -> None:
        if not self._is_over(place, source):
            return
        if source.result():
            self._let_go(container_id)
        else:
            # Most likely the shim is dead. If it is not, it has more to tell.
            self.follow(place)

    def _is_over(self, place: str, source: asyncio.Future[Any]) -> bool:
        """Whether nobody else is heard for it by now."""
        last = self._followed.get(place) is source
        if last:
            del self._followed[place]
        return last

    async def _follow(self, place: str) -> None:
        sock = await _socket()
        reader = _Reader(sock)
        with sock, contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            try:
                await asyncio.get_running_loop().sock_connect(sock, place)
                sock.send(_WISH, socket.MSG_NOSIGNAL)
                answer, _ = await reader.line()
                # A shim of an older version has nothing to give.
                while answer.get("ok", True):
                    answer, received = await reader.line()
                    self._heard(place, answer, received)
            finally:
                reader.close()
                self._orphaned.set()

    def _heard(self, place: str, told: dict[str, Any], received: list[int]) -> None:
        estate = Estate.labelled(told, received)
        self._let_go(str(told["id"]))
        if estate.descriptors:
            self._kept[str(told["id"])] = Kept(estate, f"{told['data_dir']}/{SHIM_RECORD}", place)

    def _let_go(self, container_id: str) -> None:
        kept = self._kept.pop(container_id, None)
        if kept is not None:
            kept.estate.close()

    async def _sweep(self) -> None:
        while True:
            await self._orphaned.wait()
            await asyncio.sleep(_SWEEP_SECONDS)
            self._throw_unwanted()
            if all(kept.place in self._followed for kept in self._kept.values()):
                self._orphaned.clear()

    def _throw_unwanted(self) -> None:
        """Let go of what no shim will ask for."""
        for container_id, kept in tuple(self._kept.items()):
            if kept.place not in self._followed and not os.path.exists(kept.record):  # noqa: PTH110
                self._let_go(container_id)


async def _socket() -> socket.socket:
    """A new one, as soon as this process may have one more descriptor: who has none kept must not end of it."""
    while True:
        try:
            return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError:
            await asyncio.sleep(_SWEEP_SECONDS)


class Kept:
    """An estate, and the file whose absence says that nobody will want it."""

    __slots__ = ("estate", "place", "record")

    def __init__(self, estate: Estate, record: str, place: str) -> None:
        self.estate = estate
        self.record = record
        self.place = place


class _Reader:
    """Lines, each with the descriptors that came with it."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = b""
        self._descriptors: list[int] = []

    async def line(self) -> tuple[dict[str, Any], list[int]]:
        """The next line. OSError when there will be none, ValueError when it is not a JSON object."""
        while b"\n" not in self._buffer:
            await readable(self._socket)
            data, received = fdpass.receive(self._socket, _LINE_LIMIT, MOST_DESCRIPTORS)
            self._descriptors += received
            self._buffer += data
            if not data or len(self._buffer) > _LINE_LIMIT:
                raise OSError("the shim has hung up")
        line, _, self._buffer = self._buffer.partition(b"\n")
        told = json.loads(line)
        if not isinstance(told, dict):
            raise ValueError("not a JSON object")
        wanted = len(told.get("names", ()))
        given, self._descriptors = self._descriptors[:wanted], self._descriptors[wanted:]
        return told, given

    def close(self) -> None:
        """Let go of what came for a line that never did."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
