"""Calls that carry files: each has a connection of its own, on which nobody sends more than the other end takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import cast

import pytest
from grpclib.server import Server

from bulkhead import errors
from bulkhead.wire import direct, passage
from bulkhead.wire.client import Messages, ServiceChannel, channel, stub
from bulkhead.wire.gen.bulkhead.manager.v1 import (
    ImagesBase,
    ImagesStub,
    LoadRequest,
    Progress,
    SaveRequest,
    SaveResponse,
)
from bulkhead.wire.server import bind, serve

PIECE = bytes(range(256)) * 1024
MANY = 64


class Files(ImagesBase):
    """Sends pieces and counts them, reads them when it may, and remembers how a call ended."""

    def __init__(self) -> None:
        self.sent = 0
        self.received: list[bytes] = []
        self.heard = asyncio.Event()
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.left = asyncio.Event()

    async def save(self, message: SaveRequest) -> AsyncIterator[SaveResponse]:
        try:
            for _ in range(MANY):
                self.sent += 1
                yield SaveResponse(data=PIECE)
            if "broken" in message.refs:
                raise errors.DataLoss("it broke off")
        finally:
            self.left.set()

    async def load(self, messages: AsyncIterator[LoadRequest]) -> AsyncIterator[Progress]:
        yield Progress(status="begun")
        try:
            await self.may_read.wait()
            async for message in messages:
                if message.data == b"refused":
                    raise errors.InvalidArgument("not that")
                self.received.append(message.data)
                self.heard.set()
            yield Progress(current=len(self.received))
        finally:
            self.left.set()


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[Files]:
    found = Files()
    async with serve([found], tmp_path / "s.sock"):
        yield found


@pytest.fixture
async def over(tmp_path: Path) -> AsyncIterator[ServiceChannel]:
    opened = cast(ServiceChannel, channel(tmp_path / "s.sock"))
    yield opened
    opened.close()


class Source:
    """Pieces to send, counted as they are taken; then perhaps something that goes wrong, or nothing more for ever."""

    def __init__(self, *pieces: bytes, fails: Exception | None = None, stalls: bool = False) -> None:
        self.pieces, self.taken = pieces, 0
        self._fails, self._stalls = fails, stalls

    async def loads(self) -> AsyncIterator[LoadRequest]:
        async for piece in self._all():
            yield LoadRequest(data=piece)

    async def _all(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            self.taken += 1
            yield piece
        if self._fails is not None:
            raise self._fails
        if self._stalls:
            await asyncio.Event().wait()


async def load(over: ServiceChannel, source: Source) -> list[Progress]:
    """Send it; the answers."""
    return [each async for each in stub(ImagesStub, over, "manager").load(source.loads())]


async def test_a_file_comes_whole_and_in_frames(tmp_path: Path, files: Files, over: ServiceChannel) -> None:
    found = await passage.opened(tmp_path / "s.sock")
    assert found is not None
    found.end()
    answers = cast(Messages, stub(ImagesStub, over, "manager").save(SaveRequest(refs=["a"])))
    assert [each.data async for each in answers] == [PIECE] * MANY


async def test_a_file_goes_whole(files: Files, over: ServiceChannel) -> None:
    """An empty piece is a piece like others, and no end."""
    pieces = (b"", *[PIECE] * MANY, b"", b"end")
    await load(over, Source(*pieces))
    assert files.received == list(pieces)


async def test_answers_come_while_the_file_is_still_going(files: Files, over: ServiceChannel) -> None:
    files.may_read.clear()
    answers = cast(Messages, stub(ImagesStub, over, "manager").load(Source(PIECE, PIECE).loads()))
    assert (await anext(answers)).status == "begun"
    files.may_read.set()
    assert (await anext(answers)).current == 2


async def test_a_sender_waits_for_a_reader_who_stands_still(files: Files, over: ServiceChannel) -> None:
    """Else a slow client would have a whole image in the memory of two services."""
    answers = cast(Messages, stub(ImagesStub, over, "manager").save(SaveRequest(refs=["a"])))
    async with aclosing(answers):
        await anext(answers)
        seen = -1
        while files.sent != seen:
            seen = files.sent
            await asyncio.sleep(0.05)
        assert seen < MANY // 2
        assert len([each async for each in answers]) == MANY - 1


async def test_a_caller_waits_for_a_service_that_does_not_read(files: Files, over: ServiceChannel) -> None:
    files.may_read.clear()
    source = Source(*[PIECE] * MANY)
    writing = asyncio.create_task(load(over, source))
    seen = -1
    while source.taken != seen or not seen:
        seen = source.taken
        await asyncio.sleep(0.05)
    assert seen < MANY // 2
    files.may_read.set()
    await writing
    assert len(files.received) == MANY


async def test_a_call_ends_when_its_caller_leaves(files: Files, over: ServiceChannel) -> None:
    answers = cast(Messages, stub(ImagesStub, over, "manager").save(SaveRequest(refs=["a"])))
    async with aclosing(answers):
        await anext(answers)
    await files.left.wait()
    assert files.sent < MANY


async def test_what_was_sent_comes_before_the_error_that_ends_it(files: Files, over: ServiceChannel) -> None:
    answers = cast(Messages, stub(ImagesStub, over, "manager").save(SaveRequest(refs=["broken"])))
    count = 0
    with pytest.raises(errors.DataLoss, match="it broke off"):
        async for _ in answers:
            count += 1
    assert count == MANY


@pytest.mark.parametrize("kind", [errors.InvalidArgument, ConnectionResetError])
async def test_a_file_that_breaks_off_is_never_taken_for_whole(
    files: Files, over: ServiceChannel, kind: type[Exception]
) -> None:
    """Whoever sends it hears their own error; the service hears of no end."""
    source = Source(PIECE, fails=kind("the client went away"))
    with pytest.raises(kind, match="the client went away"):
        await load(over, source)
    await files.left.wait()


async def test_a_refusal_is_heard_before_the_file_has_gone(files: Files, over: ServiceChannel) -> None:
    source = Source(b"refused", *[PIECE] * MANY, stalls=True)
    with pytest.raises(errors.InvalidArgument, match="not that"):
        await load(over, source)


async def test_a_call_ends_with_its_service(tmp_path: Path, over: ServiceChannel) -> None:
    found = Files()
    async with serve([found], tmp_path / "s.sock"):
        source = Source(PIECE, stalls=True)
        writing = asyncio.create_task(load(over, source))
        await found.heard.wait()
    with pytest.raises(errors.Unavailable):
        await writing
    assert found.left.is_set()


async def test_a_service_that_knows_only_grpc_is_sent_files_in_grpc(tmp_path: Path, over: ServiceChannel) -> None:
    """While an installation is upgraded, old and new services meet."""
    found = Files()
    server = Server([found])
    await server.start(sock=bind(tmp_path / "s.sock"))
    try:
        await load(over, Source(PIECE, b"end"))
        assert found.received == [PIECE, b"end"]
    finally:
        server.close()
        await server.wait_closed()


async def test_a_service_of_frames_that_knows_no_files_is_sent_none(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = direct.bare(0, direct.TYPE_HELLO)
        assert await reader.readexactly(len(hello)) == hello
        writer.write(hello)
        await reader.read()
        writer.close()

    async with await asyncio.start_unix_server(answer, tmp_path / "s.sock"):
        assert await passage.opened(tmp_path / "s.sock") is None
