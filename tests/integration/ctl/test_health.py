"""What the operator is told about a service that answers, refuses, lies or hangs."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from bulkhead.ctl import health
from bulkhead.errors import Unavailable
from bulkhead.model.instance import Instance
from bulkhead.registry.tls import Certificate
from bulkhead.wire import server
from bulkhead.wire.client import channel, stub
from bulkhead.wire.gen.bulkhead.manager.v1 import CheckRequest, UpkeepStub
from tests.integration.registry.wire import open_peer
from tests.support.ports import free_port
from tests.support.registries import write_certificate

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    return Instance(run=tmp_path, data=tmp_path / "data", registry=f"127.0.0.1:{free_port()}")


@asynccontextmanager
async def listening(path: Path, answer: bytes | None) -> AsyncIterator[None]:
    """A server that sends `answer` to every request, or never answers."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        if answer is not None:
            writer.write(answer)
            writer.close()

    async with await asyncio.start_unix_server(handle, path):
        yield


async def test_a_service_that_is_not_there(instance: Instance) -> None:
    assert set((await health.probe_all(instance)).values()) == {"not listening"}


async def test_a_stale_socket_is_not_taken_for_a_service(instance: Instance) -> None:
    async with listening(instance.docker_socket, b""):
        pass
    assert await health.probe("api", instance) == "not listening"


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK", None),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "GET /_ping answers 503 Service Unavailable"),
        (b"", "GET /_ping answers nothing"),
        (b"\x00\xff\r\n", "GET /_ping answers nothing"),
    ],
)
async def test_http(instance: Instance, answer: bytes, verdict: str | None) -> None:
    async with listening(instance.docker_socket, answer):
        assert await health.probe("api", instance) == verdict


@pytest.mark.parametrize("service", ["api", "manager"])
async def test_a_service_that_hangs(instance: Instance, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that accepts and never answers must not hang the operator too."""
    monkeypatch.setattr(health, "PROBE_SECONDS", 0.05)
    for path in (instance.docker_socket, instance.manager_socket):
        path.unlink(missing_ok=True)
    async with listening(instance.docker_socket, None), listening(instance.manager_socket, None):
        assert await health.probe(service, instance) == "no answer within 0.05 s"


async def test_grpc(instance: Instance) -> None:
    """The real server of every gRPC service of ours."""
    async with server.serve([], instance.manager_socket):
        assert await health.probe("manager", instance) is None


async def test_a_peer_that_does_not_speak_grpc(instance: Instance) -> None:
    async with listening(instance.supervisor_socket, b"SSH-2.0-other\r\n"):
        assert await health.probe("supervisor", instance) is not None


async def test_waiting_ends_early_for_the_dead(instance: Instance) -> None:
    late = await health.wait_ready(instance, ("manager",), 600, lambda _: True)
    assert late == {"manager": "it exited"}


async def test_waiting_ends_when_the_last_is_ready(instance: Instance) -> None:
    async with server.serve([], instance.manager_socket):
        waiting = asyncio.ensure_future(health.wait_ready(instance, ("manager", "supervisor"), 60, lambda _: False))
        async with server.serve([], instance.supervisor_socket):
            assert await waiting == {}


async def test_a_registry_with_a_certificate_is_ready(tmp_path: Path) -> None:
    """Nobody vouches for it, and nothing is asked of it but whether it lives."""
    certificate, key = write_certificate(tmp_path)
    files = Certificate(certificate=certificate, key=key)
    async with open_peer(tmp_path / "registry", tls=files) as peer:
        served = Instance(run=tmp_path, data=tmp_path / "data", registry=peer.base.removeprefix("http://"))
        assert await health.probe("registry", served) is None


@contextmanager
def dying(path: Path) -> Iterator[None]:
    """A peer that is gone with every connection as soon as it is made: a thread, to be as fast as a process."""

    def run(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                listener.accept()[0].close()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=run, args=(listener,))
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


async def test_a_service_that_dies_as_it_is_asked(instance: Instance) -> None:
    """Often: it is chance whether the connection is lost before the call begins."""
    with dying(instance.manager_socket):
        told = {await health.probe("manager", instance) for _ in range(200)}
        assert told == {"StreamTerminatedError: Connection lost"}


async def test_a_call_in_parts_to_a_service_that_dies(instance: Instance) -> None:
    opened = channel(instance.manager_socket)
    upkeep = stub(UpkeepStub, opened, "manager")
    with dying(instance.manager_socket):
        for _ in range(200):
            with pytest.raises(Unavailable, match="the manager service is not available"):
                async for _answer in upkeep.check(CheckRequest()):
                    pass
    opened.close()
