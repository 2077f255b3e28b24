"""The manager and the shims come and go; clients of the API do not notice more than they must."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from bulkhead.api import listener
from bulkhead.api.app import DRAIN_SECONDS, serve
from bulkhead.errors import Conflict
from tests.integration.api.conftest import Fake
from tests.support.fake_engine import fake_settings
from tests.support.fake_manager import FakeManager
from tests.support.raw_http import call, connected, request


@dataclass
class Flaky(Fake):
    """An engine whose manager can be taken away. The records survive in `manager`."""

    stack: AsyncExitStack

    async def manager_dies(self) -> None:
        await self.stack.aclose()

    async def manager_returns(self) -> None:
        await self.stack.enter_async_context(self.manager.serving())


class Held:
    """An operation that lasts until it is let go."""

    def __init__(self) -> None:
        self.asked, self.let_go = asyncio.Event(), asyncio.Event()

    async def __call__(self, *_: object) -> None:
        self.asked.set()
        await self.let_go.wait()


@pytest.fixture
async def flaky(tmp_path: Path) -> AsyncIterator[Flaky]:
    settings = fake_settings(tmp_path)
    manager = FakeManager(settings.instance)
    async with AsyncExitStack() as stack, serve(settings):
        engine = Flaky(manager, stack)
        await engine.manager_returns()
        yield engine
        await manager.close()


async def test_a_missing_manager_is_named_and_its_return_noticed(flaky: Flaky) -> None:
    assert (await flaky.call("GET", "/info")).status == 200
    await flaky.manager_dies()
    for method, target in (("GET", "/info"), ("GET", "/containers/json"), ("POST", "/containers/x/start")):
        reply = await flaky.call(method, target)
        assert reply.status == 503
        assert reply.message.startswith("the manager service is not available: ")
    assert (await flaky.call("POST", "/images/create?fromImage=alpine&tag=latest")).status == 503
    assert (await flaky.call("GET", "/events")).status == 503
    assert (await flaky.call("GET", "/_ping")).status == 200
    assert (await flaky.call("GET", "/version")).status == 200
    await flaky.manager_returns()
    assert (await flaky.call("GET", "/info")).status == 200


@pytest.mark.parametrize("condition", ["not-running", "next-exit", "removed"])
@pytest.mark.parametrize("exits_while_away", [True, False])
async def test_a_wait_survives_the_manager(flaky: Flaky, condition: str, exits_while_away: bool) -> None:
    removes = condition == "removed"
    container = await flaky.create("sh", "-c", "read x; exit 9", OpenStdin=True, HostConfig={"AutoRemove": removes})
    async with connected(flaky.socket) as wire:
        await flaky.call("POST", f"/containers/{container.id}/start")
        wire.send(request("POST", f"/containers/{container.id}/wait?condition={condition}"))
        await wire.head()
        await flaky.manager_dies()
        if exits_while_away:
            container.process.type(b"\n")
            await container.process.exited.wait()
        await flaky.manager_returns()
        if not exits_while_away:
            container.process.type(b"\n")
        assert json.loads(await wire.chunk()) == {"StatusCode": 9}


async def test_events_survive_the_manager_without_gap_or_repetition(flaky: Flaky) -> None:
    async with connected(flaky.socket) as wire:
        wire.send(request("GET", "/events"))
        await wire.head()
        await flaky.create("true", name="first")
        names = [json.loads(await wire.chunk())["Actor"]["Attributes"]["name"]]
        await flaky.manager_dies()
        flaky.manager.journal.add("container", "create", "x", name="second")
        await flaky.manager_returns()
        await flaky.create("true", name="third")
        names += [json.loads(await wire.chunk())["Actor"]["Attributes"]["name"] for _ in range(2)]
        assert names == ["first", "second", "third"]


async def test_a_running_stream_does_not_need_the_manager(flaky: Flaky) -> None:
    container = await flaky.run("sh", "-c", "while read x; do echo $x; done", OpenStdin=True, StdinOnce=True)
    async with connected(flaky.socket) as attached, connected(flaky.socket) as logs:
        attached.send(request("POST", f"/containers/{container.id}/attach?stream=1&stdin=1&stdout=1"))
        await attached.head()
        logs.send(request("GET", f"/containers/{container.id}/logs?stdout=1&follow=1"))
        await logs.head()
        await flaky.manager_dies()
        attached.send("hello\n")
        assert await attached.frame() == (1, b"hello\n")
        assert (await logs.chunk())[8:] == b"hello\n"
        attached.writer.write_eof()
        assert await attached.rest() == b""
        await flaky.manager_returns()
        assert await logs.chunk() == b""


async def test_logs_flow_when_neither_manager_nor_shim_can_be_asked(flaky: Flaky) -> None:
    container = await flaky.run("sh", "-c", "echo 1; read x; echo 2; read x; echo 3; read x", OpenStdin=True)
    async with connected(flaky.socket) as logs:
        logs.send(request("GET", f"/containers/{container.id}/logs?stdout=1&follow=1"))
        await logs.head()
        assert (await logs.chunk())[8:] == b"1\n"
        await flaky.manager_dies()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("bulkhead.api.adapters.stdio._Growth.shim_died", lambda growth: True)
            for follower in container.followers:
                follower.close()
            container.followers.clear()
            for expected in (b"2\n", b"3\n"):
                container.process.type(b"\n")
                assert (await logs.chunk())[8:] == expected
            await flaky.manager_returns()
            container.process.type(b"\n")
            assert await logs.chunk() == b""


async def test_logs_go_on_when_the_shim_is_replaced(flaky: Flaky) -> None:
    """The old shim's socket closes while its process is gone: here its peer pid is made to look so."""
    container = await flaky.run("sh", "-c", "echo 1; read x; echo 2; read x", OpenStdin=True)
    async with connected(flaky.socket) as logs:
        logs.send(request("GET", f"/containers/{container.id}/logs?stdout=1&follow=1"))
        await logs.head()
        assert (await logs.chunk())[8:] == b"1\n"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("bulkhead.api.adapters.stdio._Growth.shim_died", lambda growth: True)
            for follower in container.followers:
                follower.close()
            container.followers.clear()
            container.process.type(b"\n")
            assert (await logs.chunk())[8:] == b"2\n"
            container.process.type(b"\n")
            assert await logs.chunk() == b""


async def test_stopping_the_daemon_ends_endless_streams_at_once_and_whole(tmp_path: Path) -> None:
    settings = fake_settings(tmp_path)
    async with FakeManager(settings.instance).serving():
        async with AsyncExitStack() as api:
            await api.enter_async_context(serve(settings))
            async with connected(settings.instance.docker_socket) as wire:
                wire.send(request("GET", "/events"))
                await wire.head()
                async with asyncio.timeout(DRAIN_SECONDS / 2):
                    await api.aclose()
                assert await wire.chunk() == b""
                assert await wire.rest() == b""
        assert not settings.instance.docker_socket.exists()


async def test_stopping_the_daemon_answers_what_is_under_way_and_takes_nothing_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = fake_settings(tmp_path)
    socket = settings.instance.docker_socket
    async with FakeManager(settings.instance).serving() as manager, AsyncExitStack() as api:
        await api.enter_async_context(serve(settings))
        container = await Fake(manager).create("true")
        held = Held()
        monkeypatch.setattr(container, "stop", held)
        async with connected(socket) as idle, connected(socket) as busy:
            idle.send(request("GET", "/_ping"))
            assert (await idle.reply()).status == 200
            busy.send(request("POST", f"/containers/{container.id}/stop?t=60"))
            await held.asked.wait()
            leaving = asyncio.create_task(api.aclose())
            assert await idle.rest() == b""
            with pytest.raises(OSError, match=r"No such file|refused"):
                await call(socket, "GET", "/_ping")
            held.let_go.set()
            reply = await busy.reply(bodyless=True)
            assert (reply.status, reply.headers["connection"]) == (204, "close")
            assert await busy.rest() == b""
            await leaving


async def test_an_answer_behind_a_stream_that_ended_is_whole_at_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one connection: what the stream was is not what the next request is."""
    settings = fake_settings(tmp_path)
    async with FakeManager(settings.instance).serving() as manager, AsyncExitStack() as api:
        await api.enter_async_context(serve(settings))
        container = await Fake(manager).create("true")
        held = Held()
        monkeypatch.setattr(container, "stop", held)
        async with (
            connected(settings.instance.docker_socket) as idle,
            connected(settings.instance.docker_socket) as wire,
        ):
            wire.send(request("GET", "/events?since=1&until=2"))
            assert (await wire.reply()).status == 200
            idle.send(request("GET", "/_ping"))
            assert (await idle.reply()).status == 200
            wire.send(request("POST", f"/containers/{container.id}/stop?t=60"))
            await held.asked.wait()
            leaving = asyncio.create_task(api.aclose())
            assert await idle.rest() == b""
            held.let_go.set()
            assert (await wire.reply(bodyless=True)).status == 204
            assert await wire.rest() == b""
            await leaving


async def test_what_takes_too_long_is_told_that_the_daemon_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bulkhead.api.app.DRAIN_SECONDS", 0.05)
    settings = fake_settings(tmp_path)
    async with FakeManager(settings.instance).serving() as manager, AsyncExitStack() as api:
        await api.enter_async_context(serve(settings))
        container = await Fake(manager).create("true")
        held = Held()
        monkeypatch.setattr(container, "stop", held)
        async with connected(settings.instance.docker_socket) as wire:
            wire.send(request("POST", f"/containers/{container.id}/stop?t=60"))
            await held.asked.wait()
            await api.aclose()
            reply = await wire.reply()
            assert (reply.status, reply.headers["connection"]) == (503, "close")
            assert reply.message.startswith("the API service is stopping")
            assert await wire.rest() == b""
        held.let_go.set()


async def test_a_stale_socket_is_replaced_and_a_live_one_respected(tmp_path: Path) -> None:
    settings = fake_settings(tmp_path)
    path = settings.instance.docker_socket
    listener.bind(path, "nosuchgroup").close()
    async with FakeManager(settings.instance).serving(), serve(settings):
        assert (await call(path, "GET", "/_ping")).status == 200
        with pytest.raises(Conflict, match="another process listens there"):
            listener.bind(path, "docker")


async def test_many_clients_at_once(flaky: Flaky) -> None:
    replies = await asyncio.gather(*(flaky.call("GET", "/containers/json?all=1") for _ in range(100)))
    assert {reply.status for reply in replies} == {200}
