"""Reading a container's log as a client asked: which lines, and in which form.

The files are the shim's (Docker's json-file format); following goes on until the shim says that the container has
finished and its log is complete. Where the shim died while its container lives on, it is asked for again.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote_plus

import msgspec

from bulkhead.api.ports.containers import Containers, InspectedContainer
from bulkhead.api.ports.stdio import Following, Stdio
from bulkhead.api.schema.times import SECOND, rfc3339_fixed
from bulkhead.api.streams import STDERR, STDOUT
from bulkhead.api.waiting import FIRST_PAUSE, LONGEST_PAUSE
from bulkhead.errors import NotFound, Unavailable
from bulkhead.model.lifecycle import Phase

_FRAME = struct.Struct(">BxxxL")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRequest:
    """Which lines (times are Unix nanoseconds, `tail` None means all), and in which form."""

    stdout: bool = True
    stderr: bool = True
    since: int | None = None
    until: int | None = None
    tail: int | None = None
    timestamps: bool = False
    details: bool = False
    follow: bool = False
    framed: bool = True


class Cursor(Protocol):
    """A place in a log that moves forward over rotations. Its methods block for the time of a disk read."""

    def read(self) -> bytes:
        """The next complete lines, at most some hundred KiB; empty when there are no more for now."""

    def close(self) -> None: ...


OpenLog = Callable[[str, int | None, int | None], Cursor]  # path, tail, since


class Entry(msgspec.Struct):
    """A line of the file; `raw` of one that is not UTF-8, from a driver that keeps bytes as they are."""

    log: str = ""
    stream: str = "stdout"
    time: str = ""
    attrs: dict[str, str] | None = None
    raw: bytes = b""


class Renderer:
    """Lines of the file to bytes for the client; `done` once a line was past `until`."""

    def __init__(self, request: LogRequest) -> None:
        self._request = request
        self._decoder = msgspec.json.Decoder(Entry)
        self._wanted = {
            name: number
            for name, number, wanted in (("stdout", STDOUT, request.stdout), ("stderr", STDERR, request.stderr))
            if wanted
        }
        self._since = rfc3339_fixed(request.since) if request.since else ""
        self._until = rfc3339_fixed(request.until) if request.until else ""
        self._plain = not (self._since or self._until or request.timestamps or request.details)
        self.done = False

    def render(self, lines: bytes) -> bytes:
        entries = self._decode(lines)
        parts: list[bytes] = []
        for entry in entries:
            stream = self._wanted.get(entry.stream)
            if stream is None:
                continue
            text = entry.log if self._plain else self._decorated(entry)
            if self.done:
                break
            if not text:
                continue
            payload = text.encode()
            if entry.raw:
                # What may stand before the line is text.
                payload = payload.removesuffix(entry.log.encode()) + entry.raw
            if self._request.framed:
                parts.append(_FRAME.pack(stream, len(payload)))
            parts.append(payload)
        return b"".join(parts)

    def _decode(self, lines: bytes) -> list[Entry]:
        try:
            return self._decoder.decode_lines(lines)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return [entry for line in lines.split(b"\n") if (entry := self._decode_one(line)) is not None]

    def _decode_one(self, line: bytes) -> Entry | None:
        """A damaged line (a crash, a full disk) costs itself, not the log."""
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            return self._decoder.decode(line)
        return None

    def _decorated(self, entry: Entry) -> str:
        stamp = fixed_width(entry.time)
        if self._until and stamp > self._until:
            self.done = True
            return ""
        if stamp < self._since:
            return ""
        text = entry.log
        if self._request.details:
            text = f"{_attributes(entry.attrs)} {text}"
        return f"{stamp} {text}" if self._request.timestamps else text


def fixed_width(stamp: str) -> str:
    """RFC 3339 in UTC with nine digits of fraction, so that stamps compare as strings."""
    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    return f"{whole}.{fraction[:9]:0<9}Z"


def _attributes(attrs: dict[str, str] | None) -> str:
    return ",".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in sorted((attrs or {}).items()))


class LogReader:
    def __init__(self, containers: Containers, stdio: Stdio, open_log: OpenLog) -> None:
        self._containers = containers
        self._stdio = stdio
        self._open = open_log

    @contextlib.asynccontextmanager
    async def opened(self, container: InspectedContainer, request: LogRequest) -> AsyncIterator[AsyncGenerator[bytes]]:
        """The bytes for the client, as they become known.

        Entered, the log is held open: it is read whole even if the container is removed meanwhile.
        """
        async with contextlib.AsyncExitStack() as stack:
            if request.tail == 0 and not request.follow:
                yield _nothing()
                return
            tail = _Tail(self._containers, self._stdio, container) if request.follow and _lives(container) else None
            if tail is not None:
                stack.callback(tail.close)
                # Before the first read to the end: growth after it is announced, growth before it is read.
                await tail.begin()
            cursor = await asyncio.to_thread(self._open, container.log_path, request.tail, request.since)
            held = _Held(cursor)
            stack.callback(held.close)
            yield await stack.enter_async_context(contextlib.aclosing(_blocks(held, tail, request)))


async def _nothing() -> AsyncGenerator[bytes]:
    return
    yield b""


async def _blocks(held: _Held, tail: _Tail | None, request: LogRequest) -> AsyncGenerator[bytes]:
    renderer = Renderer(request)
    while True:
        block = await held.next_block(renderer)
        if block:
            yield block
        if renderer.done:
            return
        if block is None and (tail is None or not await tail.grown(request.until)):
            return


class _Held:
    """A log that is held open. A read that its client has not waited for keeps it open to its end: the number of a file
    that is closed under a thread may be another's before the kernel looks at it."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._reading: asyncio.Task[bytes | None] | None = None

    async def next_block(self, renderer: Renderer) -> bytes | None:
        self._reading = asyncio.create_task(asyncio.to_thread(_next_block, self._cursor, renderer))
        return await asyncio.shield(self._reading)

    def close(self) -> None:
        if self._reading is None or self._reading.done():
            self._cursor.close()
        else:
            self._reading.add_done_callback(self._read_in_vain)

    def _read_in_vain(self, reading: asyncio.Task[bytes | None]) -> None:
        if not reading.cancelled():
            reading.exception()
        self._cursor.close()


def _next_block(cursor: Cursor, renderer: Renderer) -> bytes | None:
    """The next bytes for the client, perhaps none of a stretch of unwanted lines; None at the end for now."""
    lines = cursor.read()
    return renderer.render(lines) if lines else None


def _lives(container: InspectedContainer) -> bool:
    return container.phase.alive or container.phase is Phase.RESTARTING


class _Tail:
    """Waits for growth of one container's log, whatever becomes of its shim and of the manager."""

    def __init__(self, containers: Containers, stdio: Stdio, container: InspectedContainer) -> None:
        self._containers = containers
        self._stdio = stdio
        self._id = container.id
        self._following: Following | None = None
        self._finished = False
        self._pause = FIRST_PAUSE

    async def begin(self) -> None:
        with contextlib.suppress(Unavailable, NotFound):
            await self._subscribe()

    async def _subscribe(self) -> None:
        address = await self._containers.stdio(self._id)
        self._following = await self._stdio.follow(address.socket)
        self._pause = FIRST_PAUSE

    async def grown(self, until: int | None) -> bool:
        """True when it is worth to read on, False when nothing more will come (or `until` has passed)."""
        if self._finished:
            return False
        try:
            async with asyncio.timeout(None if until is None else (until - time.time_ns()) / SECOND):
                await self._wait()
        except TimeoutError:
            self._finished = True
        return True  # once more, for what was written before the last word

    async def _wait(self) -> None:
        if self._following is None:
            await self._resume()
        elif not await self._following.grown():
            # A shim that still lives has closed on purpose: the log is complete.
            self._finished = not self._following.shim_died()
            self.close()

    async def _resume(self) -> None:
        """The shim is gone: follow its successor, unless the container has ended with it.

        One attempt at a time: as long as neither shim nor manager can be asked, the file is simply looked at.
        """
        await asyncio.sleep(self._pause)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        try:
            if _lives(await self._containers.inspect(self._id)):
                await self._subscribe()
            else:
                self._finished = True
        except NotFound:
            self._finished = True
        except Unavailable:
            return

    def close(self) -> None:
        if self._following is not None:
            self._following.close()
            self._following = None
