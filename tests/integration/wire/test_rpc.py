"""A call between two services: errors keep their class, an absent peer says who is away and heals by itself.

In frames, as our own services call each other, and over gRPC, which is the contract.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from grpclib.client import Channel

from bulkhead import errors, telemetry
from bulkhead.wire import direct
from bulkhead.wire.client import channel, stub
from bulkhead.wire.gen.bulkhead.manager.v1 import ImagesStub, LoadRequest
from bulkhead.wire.gen.bulkhead.supervisor.v1 import LaunchRequest, LaunchResponse, SupervisorBase, SupervisorStub
from bulkhead.wire.server import serve
from tests.support.unheard import none_unheard


class Supervisor(SupervisorBase):
    """Fails as its request says, or echoes the caller's request id."""

    async def launch(self, message: LaunchRequest) -> LaunchResponse:
        kind = getattr(errors, message.container_id, None)
        if kind is not None:
            raise kind(f"cannot launch x: {message.container_id}")
        if message.container_id == "crash":
            raise ZeroDivisionError("oops")
        return LaunchResponse(pid=int(telemetry.request_id(), 16))


@pytest.fixture(params=["frames", "grpc"])
async def over(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Channel]:
    path = tmp_path / "s.sock"
    opened = channel(path) if request.param == "frames" else Channel(path=str(path))
    yield opened
    opened.close()


MAPPED = [
    "InvalidArgument",
    "NotFound",
    "Conflict",
    "NotModified",
    "Unauthorized",
    "Forbidden",
    "Unavailable",
    "DeadlineExceeded",
    "NotImplementedYet",
    "ResourceExhausted",
    "DataLoss",
    "Internal",
]


@pytest.mark.parametrize("name", MAPPED)
async def test_an_error_arrives_as_what_it_was(tmp_path: Path, over: Channel, name: str) -> None:
    async with serve([Supervisor()], tmp_path / "s.sock"):
        with pytest.raises(getattr(errors, name), match=f"^cannot launch x: {name}$"):
            await stub(SupervisorStub, over, "supervisor").launch(LaunchRequest(container_id=name))


async def test_a_crash_of_the_handler_is_internal_and_the_service_lives(tmp_path: Path, over: Channel) -> None:
    supervisor = stub(SupervisorStub, over, "supervisor")
    async with serve([Supervisor()], tmp_path / "s.sock"):
        with pytest.raises(errors.Internal, match="ZeroDivisionError"):
            await supervisor.launch(LaunchRequest(container_id="crash"))
        telemetry.bind_request_id("00000000000000ff")
        assert (await supervisor.launch(LaunchRequest())).pid == 255


async def test_an_absent_peer_is_named_and_a_call_works_once_it_is_back(tmp_path: Path, over: Channel) -> None:
    """The API daemon must not need a restart after the manager had one."""
    supervisor = stub(SupervisorStub, over, "supervisor")
    for _ in range(2):
        with pytest.raises(errors.Unavailable, match="the supervisor service is not available"):
            await supervisor.launch(LaunchRequest())
        async with serve([Supervisor()], tmp_path / "s.sock"):
            await supervisor.launch(LaunchRequest())


async def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serve([Supervisor()], path):
        with pytest.raises(errors.Conflict, match="another process listens there"):
            async with serve([Supervisor()], path):
                pass
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


class Slow(SupervisorBase):
    """Answers when it is let go."""

    def __init__(self) -> None:
        self.asked, self.let_go = asyncio.Event(), asyncio.Event()

    async def launch(self, message: LaunchRequest) -> LaunchResponse:
        self.asked.set()
        await self.let_go.wait()
        return LaunchResponse(pid=7)


async def test_a_stop_lets_a_call_end_and_no_other_begin(tmp_path: Path, over: Channel) -> None:
    slow = Slow()
    supervisor = stub(SupervisorStub, over, "supervisor")
    async with contextlib.AsyncExitStack() as service:
        await service.enter_async_context(serve([slow], tmp_path / "s.sock"))
        begun = asyncio.create_task(supervisor.launch(LaunchRequest()))
        await slow.asked.wait()
        leaving = asyncio.create_task(service.aclose())
        await asyncio.sleep(0)
        with pytest.raises(errors.Unavailable, match="stopping"):
            await supervisor.launch(LaunchRequest())
        slow.let_go.set()
        assert (await begun).pid == 7
        await leaving


async def test_a_stop_does_not_wait_for_ever(tmp_path: Path, over: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulkhead.wire.server.DRAIN_SECONDS", 0.05)
    slow = Slow()
    async with serve([slow], tmp_path / "s.sock"):
        begun = asyncio.create_task(stub(SupervisorStub, over, "supervisor").launch(LaunchRequest()))
        await slow.asked.wait()
    with pytest.raises(errors.Unavailable):
        await begun


@pytest.mark.parametrize("knows_bodies", [False, True])
async def test_a_peer_that_dies_while_it_is_told_a_lot_is_one_error_and_no_other(
    tmp_path: Path, knows_bodies: bool
) -> None:
    """The window is full and nobody opens it: the task that sends stands still when the connection breaks."""

    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        speaks_frames = await reader.readexactly(1) == b"\0"
        if knows_bodies:
            writer.write(direct.bare(0, direct.TYPE_HELLO, direct.KNOWS_BODIES))
        with contextlib.suppress(asyncio.IncompleteReadError):  # a connection by which it is only looked after
            if knows_bodies or not speaks_frames:
                await reader.readexactly(60 << 10)
        writer.transport.abort()

    async def endless() -> AsyncIterator[LoadRequest]:
        while True:
            yield LoadRequest(data=bytes(16 << 10))

    async with none_unheard(), await asyncio.start_unix_server(dies, tmp_path / "s.sock"):
        with contextlib.closing(channel(tmp_path / "s.sock")) as over:
            with pytest.raises(errors.Unavailable, match="the manager service is not available"):
                async for _ in stub(ImagesStub, over, "manager").load(endless()):
                    pytest.fail("nobody answers")
