"""Client and server over a real socket; the server on a lean loop in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkhead import errors, telemetry
from bulkhead.errors import BulkheadError, DeadlineExceeded, Internal, InvalidArgument, NotImplementedYet, Unavailable
from bulkhead.shim import messages
from bulkhead.shim.loop import Loop
from bulkhead.wire.gen.bulkhead.shim import v1 as generated
from bulkhead.wire.ttrpc import MAX_PAYLOAD
from bulkhead.wire.ttrpc_client import ShimClient, TtrpcClient
from bulkhead.wire.ttrpc_server import Call, TtrpcServer


class Service:
    """A server whose handlers are the tests'."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failures: list[str] = []
        self.waiting: list[Call] = []
        self.seen: list[str] = []
        self.loop = Loop(lambda event, error: self.failures.append(repr(error)))
        self.loop.open()
        table = {
            "State": (messages.Empty, self._state),
            "Wait": (messages.ExecReference, lambda request, call: self.waiting.append(call)),
            "Kill": (messages.KillRequest, self._kill),
            "ExecCreate": (messages.ExecCreateRequest, self._echo),
            "Pids": (messages.Empty, lambda request, call: call.reply(messages.PidsResponse(pids=[7] * 200_000))),
            "Start": (messages.Empty, self._break),
            "Pause": (messages.Empty, self._release),
        }
        self.server = TtrpcServer(
            self.loop, {messages.SERVICE: table}, lambda call, error: self.failures.append(repr(error))
        )
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        self.server.listen(listener)
        self._stop, self._stopper = os.pipe()
        self.loop.add(self._stop, 1, lambda _events: self.loop.stop())
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    def stop(self) -> None:
        os.write(self._stopper, b"x")
        self.thread.join(5)
        self.server.close()

    def _state(self, request: messages.Empty, call: Call) -> None:
        self.seen.append(call.request_id)
        call.reply(messages.StateResponse(phase="new"))

    def _kill(self, request: messages.KillRequest, call: Call) -> None:
        kind = getattr(errors, request.exec_id)
        raise kind(f"as told: {request.signal}")

    def _break(self, request: messages.Empty, call: Call) -> None:
        call.reply(messages.PidsResponse(pids=[1 // 0]))

    def _echo(self, request: messages.ExecCreateRequest, call: Call) -> None:
        self.seen.append(str(len(request.process)))
        call.reply(messages.Empty())

    def _release(self, request: messages.Empty, call: Call) -> None:
        for waiter in self.waiting:
            waiter.reply(messages.WaitResponse(exit_code=3))
        call.reply(messages.Empty())


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    running = Service(tmp_path / "s.sock")
    yield running
    running.stop()


async def test_calls_and_waits_share_a_connection(service: Service) -> None:
    async with TtrpcClient(service.path) as client:
        shim = ShimClient(client)
        waits = [asyncio.create_task(shim.wait()) for _ in range(20)]
        assert [(await shim.state()).phase for _ in range(5)] == ["new"] * 5
        await shim.pause()
        assert [(await wait).exit_code for wait in waits] == [3] * 20


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, BulkheadError)
        and kind not in (BulkheadError, errors.LaunchFailed)
    ],
)
async def test_every_error_comes_back_as_itself(service: Service, kind: type[BulkheadError]) -> None:
    async with TtrpcClient(service.path) as client:
        with pytest.raises(kind, match="as told: 5") as caught:
            await ShimClient(client).kill(5, exec_id=kind.__name__)
        assert type(caught.value) is kind


async def test_a_handler_that_breaks_is_an_internal_error_and_the_next_call_works(service: Service) -> None:
    async with TtrpcClient(service.path) as client:
        with pytest.raises(Internal, match="ZeroDivisionError"):
            await ShimClient(client).start()
        assert (await ShimClient(client).state()).phase == "new"
        assert service.failures == ["ZeroDivisionError('integer division or modulo by zero')"]


async def test_an_unknown_method_and_service(service: Service) -> None:
    async with TtrpcClient(service.path) as client:
        with pytest.raises(NotImplementedYet):
            await ShimClient(client).resume()
        with pytest.raises(NotImplementedYet):
            await client.call("other.Service", "State", generated.StateRequest(), generated.StateResponse, timeout=5)


async def test_the_request_id_travels(service: Service) -> None:
    async with TtrpcClient(service.path) as client:
        telemetry.bind_request_id("abc-123")
        await ShimClient(client).state()
        assert service.seen == ["abc-123"]


async def test_large_messages_pass_and_larger_ones_are_refused(service: Service) -> None:
    async with TtrpcClient(service.path) as client:
        shim = ShimClient(client)
        await shim.exec_create(generated.ExecCreateRequest(process=b"x" * (MAX_PAYLOAD - 1000)))
        assert service.seen == [str(MAX_PAYLOAD - 1000)]
        assert len((await shim.pids()).pids) == 200_000
        with pytest.raises(InvalidArgument, match="exceed the limit"):
            await shim.exec_create(generated.ExecCreateRequest(process=b"x" * MAX_PAYLOAD))
        assert (await shim.state()).phase == "new"


async def test_a_deadline_passes_and_the_connection_stays(service: Service) -> None:
    async with TtrpcClient(service.path) as client:
        shim = ShimClient(client)
        with pytest.raises(DeadlineExceeded):
            await shim.wait(timeout=0.01)
        await shim.pause()
        assert (await shim.state()).phase == "new"


async def test_when_the_server_goes_calls_in_flight_fail_and_closed_is_done(tmp_path: Path) -> None:
    service = Service(tmp_path / "s.sock")
    async with TtrpcClient(service.path) as client:
        shim = ShimClient(client)
        wait = asyncio.create_task(shim.wait())
        await shim.state()
        await asyncio.to_thread(service.stop)
        with pytest.raises(Unavailable):
            await wait
        await asyncio.wait_for(shim.closed, 20)
        with pytest.raises(Unavailable):
            await shim.state()


async def test_nobody_there(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.sock", tmp_path):
        with pytest.raises(Unavailable, match="cannot connect"):
            await TtrpcClient(path).connect()


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">IIBB", MAX_PAYLOAD + 1, 1, 1, 0),
        struct.pack(">IIBB", 3, 1, 1, 0) + b"\xff\xff\xff",
        struct.pack(">IIBB", 0, 1, 2, 0),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
async def test_what_is_not_ttrpc_is_hung_up_on(service: Service, data: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(str(service.path))
    writer.write(data)
    assert await asyncio.wait_for(reader.read(), 20) == b""
    writer.close()
    async with TtrpcClient(service.path) as client:
        assert (await ShimClient(client).state()).phase == "new"
    assert service.failures == []


async def test_a_caller_that_goes_away_is_forgotten(service: Service) -> None:
    async with TtrpcClient(service.path) as client:
        gone = asyncio.create_task(ShimClient(client).wait())
        await ShimClient(client).state()
        gone.cancel()
    async with TtrpcClient(service.path) as client:
        await ShimClient(client).pause()
        assert (await ShimClient(client).state()).phase == "new"
