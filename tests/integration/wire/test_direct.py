"""Calls in frames: what gRPC's own machinery does for a call must not be lost with it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
from grpclib.server import Server

from bulkhead import errors
from bulkhead.wire import direct, pulse
from bulkhead.wire.client import Messages, ServiceChannel, channel, stub
from bulkhead.wire.direct_server import Session
from bulkhead.wire.gen.bulkhead.manager.v1 import (
    ContainersBase,
    ContainersStub,
    Event,
    EventsRequest,
    ImagesBase,
    ImagesStub,
    LoadRequest,
    Progress,
    SaveRequest,
    SaveResponse,
    SystemBase,
    SystemStub,
    WaitContainerRequest,
    WaitContainerResponse,
)
from bulkhead.wire.gen.bulkhead.supervisor.v1 import LaunchRequest, LaunchResponse, SupervisorBase, SupervisorStub
from bulkhead.wire.protobuf import encode
from bulkhead.wire.server import bind, serve
from bulkhead.wire.ttrpc import TYPE_REQUEST, TYPE_RESPONSE, Frame, FrameReader
from tests.support.eventually import eventually

CONTAINERS = "/bulkhead.manager.v1.Containers"


class Patient:
    """Answers `launch` at once when it is named, else never; yields twice when it is waited for, then never."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.left = asyncio.Event()

    async def launch(self, message: LaunchRequest) -> LaunchResponse:
        if message.container_id:
            return LaunchResponse(pid=len(message.container_id))
        await self._stay()
        raise AssertionError

    async def wait(self, message: WaitContainerRequest) -> AsyncIterator[WaitContainerResponse]:
        yield WaitContainerResponse(registered=True)
        yield WaitContainerResponse(exit_code=3)
        if message.condition:
            raise errors.Conflict(message.condition)
        if not message.ref:
            await self._stay()

    async def _stay(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()


class Launcher(SupervisorBase):
    def __init__(self, patient: Patient) -> None:
        self.launch = patient.launch  # type: ignore[method-assign]


class Waiter(ContainersBase):
    def __init__(self, patient: Patient) -> None:
        self.wait = patient.wait  # type: ignore[method-assign]


@pytest.fixture
async def patient(tmp_path: Path) -> AsyncIterator[Patient]:
    found = Patient()
    async with serve([Launcher(found), Waiter(found)], tmp_path / "s.sock"):
        yield found


@pytest.fixture
async def over(tmp_path: Path) -> AsyncIterator[ServiceChannel]:
    opened = cast(ServiceChannel, channel(tmp_path / "s.sock"))
    yield opened
    opened.close()


async def test_our_own_services_are_spoken_to_in_frames(patient: Patient, over: ServiceChannel) -> None:
    assert (await stub(SupervisorStub, over, "supervisor").launch(LaunchRequest(container_id="abc"))).pid == 3
    link = await over.direct.link()
    assert link is not None and link.alive


async def test_a_service_that_knows_only_grpc_is_spoken_to_in_grpc(tmp_path: Path, over: ServiceChannel) -> None:
    """While an installation is upgraded, old and new services meet."""
    server = Server([Launcher(Patient())])
    await server.start(sock=bind(tmp_path / "s.sock"))
    try:
        supervisor = stub(SupervisorStub, over, "supervisor")
        for name in ("a", "ab"):
            assert (await supervisor.launch(LaunchRequest(container_id=name))).pid == len(name)
        assert await over.direct.link() is None
    finally:
        server.close()
        await server.wait_closed()


async def test_a_call_ends_when_its_caller_has_had_enough(patient: Patient, over: ServiceChannel) -> None:
    supervisor = stub(SupervisorStub, over, "supervisor")
    seconds = 0.05
    while not patient.begun.is_set():  # a busy machine may not come to it within that
        with pytest.raises(errors.DeadlineExceeded, match="supervisor service did not answer in time"):
            await supervisor.launch(LaunchRequest(), timeout=seconds)
        seconds *= 2
    await patient.left.wait()
    assert (await supervisor.launch(LaunchRequest(container_id="ab"))).pid == 2


async def test_a_call_ends_with_its_connection(patient: Patient, over: ServiceChannel) -> None:
    call = asyncio.create_task(stub(SupervisorStub, over, "supervisor").launch(LaunchRequest()))
    await patient.begun.wait()
    over.direct.close()
    with pytest.raises(errors.Unavailable, match="the connection ended"):
        await call
    await patient.left.wait()


async def test_calls_end_with_the_service(tmp_path: Path, over: ServiceChannel) -> None:
    found = Patient()
    async with serve([Launcher(found)], tmp_path / "s.sock"):
        call = asyncio.create_task(stub(SupervisorStub, over, "supervisor").launch(LaunchRequest()))
        await found.begun.wait()
    assert found.left.is_set()
    with pytest.raises(errors.Unavailable, match="the supervisor service is not available"):
        await call


async def test_an_answer_in_parts_comes_part_by_part_and_ends(patient: Patient, over: ServiceChannel) -> None:
    answers = stub(ContainersStub, over, "manager").wait(WaitContainerRequest(ref="a"))
    assert [(each.registered, each.exit_code) async for each in answers] == [(True, None), (False, 3)]


async def test_what_was_said_comes_before_the_error_that_ends_it(patient: Patient, over: ServiceChannel) -> None:
    answers = stub(ContainersStub, over, "manager").wait(WaitContainerRequest(ref="a", condition="no more"))
    assert (await anext(answers)).registered
    assert (await anext(answers)).exit_code == 3
    with pytest.raises(errors.Conflict, match="no more"):
        await anext(answers)


class Written(asyncio.Transport):
    """The frames of each write, by their types."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: asyncio.Queue[list[int]] = asyncio.Queue()

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.frames.put_nowait([each.type for each in FrameReader(direct.LIMIT).feed(bytes(data))])


async def test_the_last_part_comes_with_the_end() -> None:
    """Whoever has heard it has nothing to break off, and is woken once."""
    session, written = Session(Waiter(Patient()).__mapping__(), set()), Written()
    session.connection_made(written)
    message = encode(WaitContainerRequest(ref="a"))
    session.data_received(direct.bare(1, TYPE_REQUEST, direct.request(f"{CONTAINERS}/Wait", message, "")))
    assert await written.frames.get() == [direct.TYPE_DATA]
    assert await written.frames.get() == [direct.TYPE_DATA, TYPE_RESPONSE]


async def test_an_answer_in_parts_that_nobody_wants_any_more_is_broken_off(
    patient: Patient, over: ServiceChannel
) -> None:
    """Else every client that leaves a wait would leave a waiter behind."""
    answers = cast(Messages, stub(ContainersStub, over, "manager").wait(WaitContainerRequest()))
    async with aclosing(answers):
        await anext(answers)
        await patient.begun.wait()
    await patient.left.wait()


async def test_whoever_sends_no_frames_is_hung_up_on_and_nobody_else(
    tmp_path: Path, patient: Patient, over: ServiceChannel
) -> None:
    supervisor = stub(SupervisorStub, over, "supervisor")
    await supervisor.launch(LaunchRequest(container_id="a"))
    hello = direct.bare(0, direct.TYPE_HELLO)
    for garbage in (struct.pack(">IIBB", direct.LIMIT + 1, 1, 1, 0), direct.bare(1, 99)):
        answer = direct.bare(0, direct.TYPE_HELLO, direct.KNOWS_BODIES)
        assert await _told_until_the_end(tmp_path / "s.sock", hello + garbage) == answer
    assert (await supervisor.launch(LaunchRequest(container_id="ab"))).pid == 2


async def _told_until_the_end(path: Path, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    try:
        return await reader.read()
    finally:
        writer.close()


async def test_a_call_that_cannot_be_read_is_refused(tmp_path: Path, patient: Patient, over: ServiceChannel) -> None:
    link = await over.direct.link()
    assert link is not None
    with pytest.raises(errors.NotImplementedYet, match="no such method"):
        await link.ask("/no.such.Service/Method", b"", "", 10.0)


@pytest.mark.parametrize("greets", [True, False])
async def test_who_says_nothing_to_anybody_is_given_up_in_words(
    tmp_path: Path, over: ServiceChannel, monkeypatch: pytest.MonkeyPatch, greets: bool
) -> None:
    """Stopped, or stuck; who is called anew meanwhile waits no longer."""
    async with _stopped(tmp_path / "s.sock", greets=greets) as asked:
        if greets:
            await over.direct.link()  # however long that takes
        monkeypatch.setattr(pulse, "_ASK_SECONDS", 0.02)
        monkeypatch.setattr(pulse, "_GREETING_SECONDS", 0.08)
        launch = stub(SupervisorStub, over, "supervisor").launch
        first = asyncio.create_task(launch(LaunchRequest()))
        await asked.wait()
        calls = [first, *(asyncio.create_task(launch(LaunchRequest())) for _ in range(4))]
        for failed in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(failed, errors.Unavailable)
            assert "the supervisor service does not answer" in str(failed)


async def test_who_is_long_at_a_call_and_alive_is_waited_for(
    patient: Patient, over: ServiceChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    await over.direct.link()  # however long that takes
    monkeypatch.setattr(pulse, "_ASK_SECONDS", 0.005)
    call = asyncio.create_task(stub(SupervisorStub, over, "supervisor").launch(LaunchRequest()))
    await patient.begun.wait()
    asked: list[int] = []
    receive = Session.receive

    def noted(session: Session, frame: Frame) -> None:
        asked.append(frame.type)
        receive(session, frame)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "receive", noted)
        await eventually(lambda: len(asked) > 20)
    assert set(asked) == {direct.TYPE_HELLO}
    assert not call.done()
    call.cancel()
    await patient.left.wait()


PARTS: Mapping[str, Callable[[ServiceChannel], Messages]] = {
    "of few messages": lambda over: cast(Messages, stub(ContainersStub, over, "manager").wait(WaitContainerRequest())),
    "of many": lambda over: cast(Messages, stub(SystemStub, over, "manager").events(EventsRequest())),
    "a file": lambda over: cast(Messages, stub(ImagesStub, over, "manager").save(SaveRequest())),
    "in parts both ways": lambda over: cast(Messages, stub(ImagesStub, over, "manager").load(_one_part())),
}


async def _one_part() -> AsyncIterator[LoadRequest]:
    """And no more, for ever."""
    yield LoadRequest(data=b"part")
    await asyncio.Event().wait()


@pytest.mark.parametrize("kind", PARTS)
async def test_an_answer_in_parts_is_not_awaited_from_who_says_nothing_to_anybody(
    tmp_path: Path, over: ServiceChannel, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(pulse, "_ASK_SECONDS", 0.02)
    async with _stopped(tmp_path / "s.sock", greets=True), aclosing(PARTS[kind](over)) as answers:
        with pytest.raises(errors.Unavailable, match="the manager service does not answer"):
            await anext(answers)


class QuietContainers(ContainersBase):
    """Each answer in parts of these begins, and goes on when it may."""

    def __init__(self, may_end: asyncio.Event) -> None:
        self.may_end = may_end

    async def wait(self, message: WaitContainerRequest) -> AsyncIterator[WaitContainerResponse]:
        yield WaitContainerResponse()
        await self.may_end.wait()
        yield WaitContainerResponse()


class QuietSystem(SystemBase):
    def __init__(self, may_end: asyncio.Event) -> None:
        self.may_end = may_end

    async def events(self, message: EventsRequest) -> AsyncIterator[Event]:
        yield Event()
        await self.may_end.wait()
        yield Event()


class QuietImages(ImagesBase):
    def __init__(self, may_end: asyncio.Event) -> None:
        self.may_end = may_end

    async def save(self, message: SaveRequest) -> AsyncIterator[SaveResponse]:
        yield SaveResponse()
        await self.may_end.wait()
        yield SaveResponse()

    async def load(self, messages: AsyncIterator[LoadRequest]) -> AsyncIterator[Progress]:
        yield Progress()
        await self.may_end.wait()
        yield Progress()


@pytest.mark.parametrize("kind", PARTS)
async def test_an_answer_in_parts_may_pause_for_as_long_as_its_service_lives(
    tmp_path: Path, over: ServiceChannel, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Nothing happens for hours, and who waits for it hears it then."""
    monkeypatch.setattr(pulse, "_ASK_SECONDS", 0.005)
    may_end, heard = asyncio.Event(), 0
    told = pulse.Pulse.heard

    def noted(of: pulse.Pulse) -> None:
        nonlocal heard
        heard += 1
        told(of)

    monkeypatch.setattr(pulse.Pulse, "heard", noted)
    async with serve([QuietContainers(may_end), QuietSystem(may_end), QuietImages(may_end)], tmp_path / "s.sock"):
        async with aclosing(PARTS[kind](over)) as answers:
            await anext(answers)
            await eventually(lambda: heard > 20)
            may_end.set()
            await anext(answers)


@asynccontextmanager
async def _stopped(place: Path, *, greets: bool) -> AsyncIterator[asyncio.Event]:
    """A service that stands still when it has been asked for something, or has been greeted and does not greet."""
    asked, over = asyncio.Event(), asyncio.Event()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames, last = FrameReader(), TYPE_REQUEST if greets else direct.TYPE_HELLO
        told = await reader.read(1 << 16)
        if told[:1] == b"\0":
            if greets:
                writer.write(direct.bare(0, direct.TYPE_HELLO, direct.KNOWS_BODIES))
            while told and not any(each.type == last for each in frames.feed(told)):
                told = await reader.read(1 << 16)
        asked.set()
        await over.wait()
        writer.close()

    async with await asyncio.start_unix_server(hear, place):
        yield asked
        over.set()
