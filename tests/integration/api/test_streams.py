"""wait, logs and events: headers first, nothing missed, and every end noticed."""

from __future__ import annotations

import asyncio
import json
import os
import time
from urllib.parse import quote

import pytest

from bulkhead.errors import NotFound
from tests.integration.api.conftest import Fake
from tests.support.eventually import eventually
from tests.support.raw_http import Wire, connected, request


async def streaming(wire: Wire, method: str, target: str) -> dict[str, str]:
    wire.send(request(method, target))
    status, headers = await wire.head()
    assert status == 200
    assert headers["transfer-encoding"] == "chunked"
    return headers


@pytest.mark.parametrize("condition", ["next-exit", "removed"])
async def test_wait_is_armed_before_its_headers(fake: Fake, condition: str) -> None:
    """Clients start the container once they have the headers, and then the exit must not be missed."""
    container = await fake.create("sh", "-c", "exit 5", HostConfig={"AutoRemove": condition == "removed"})
    async with connected(fake.socket) as wire:
        await streaming(wire, "POST", f"/containers/{container.id}/wait?condition={condition}")
        await fake.call("POST", f"/containers/{container.id}/start")
        assert json.loads(b"".join([chunk async for chunk in wire.chunks()])) == {"StatusCode": 5}


async def test_wait_for_a_container_that_does_not_run_returns_at_once(fake: Fake) -> None:
    container = await fake.create("true")
    assert (await fake.call("POST", f"/containers/{container.id}/wait")).json == {"StatusCode": 0}


async def test_bad_wait_condition_is_refused_since_1_42(fake: Fake) -> None:
    container = await fake.create("true")
    target = f"/containers/{container.id}/wait?condition=foo"
    assert (await fake.call("POST", target)).message == 'invalid condition: "foo"'
    assert (await fake.call("POST", f"/v1.41{target}")).status == 200
    assert (await fake.call("POST", "/containers/nosuch/wait")).status == 404


async def test_logs_need_a_stream(fake: Fake) -> None:
    container = await fake.create("true")
    reply = await fake.call("GET", f"/containers/{container.id}/logs")
    assert (reply.status, reply.message) == (400, "Bad parameters: you must choose at least one stream")


async def test_logs_of_a_driver_that_keeps_none(fake: Fake) -> None:
    container = await fake.create("true", HostConfig={"LogConfig": {"Type": "none"}})
    reply = await fake.call("GET", f"/containers/{container.id}/logs?stdout=1")
    assert (reply.status, reply.message) == (501, "configured logging driver does not support reading")


@pytest.mark.parametrize("query", ["since=x", "until=-1", "since=1e5"])
async def test_bad_times_are_refused(fake: Fake, query: str) -> None:
    container = await fake.create("true")
    assert (await fake.call("GET", f"/containers/{container.id}/logs?stdout=1&{query}")).status == 400


async def test_logs_are_framed_and_tailed(fake: Fake) -> None:
    container = await fake.run("sh", "-c", "echo 1; echo 2; echo 3")
    await container.process.exited.wait()
    target = f"/containers/{container.id}/logs?stdout=1&stderr=1"
    everything = await fake.call("GET", target)
    assert everything.headers["content-type"] == "application/vnd.docker.multiplexed-stream"
    assert everything.body == b"".join(b"\1\0\0\0\0\0\0\2%d\n" % number for number in (1, 2, 3))
    assert (await fake.call("GET", f"{target}&tail=1")).body == b"\1\0\0\0\0\0\0\0023\n"
    assert (await fake.call("GET", f"{target}&tail=0")).body == b""
    assert (await fake.call("GET", f"{target}&tail=nonsense")).body == everything.body
    assert (await fake.call("GET", f"{target}&since={time.time() + 100:.3f}")).body == b""
    assert (await fake.call("GET", f"/v1.41{target}")).headers["content-type"] == "application/vnd.docker.raw-stream"


async def test_follow_ends_with_the_container_and_has_every_line(fake: Fake) -> None:
    container = await fake.run("sh", "-c", "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i; done", Tty=True)
    reply = await fake.call("GET", f"/containers/{container.id}/logs?stdout=1&follow=1")
    assert reply.body.split() == [b"%d" % number for number in range(1, 301)]


async def test_follow_sends_headers_before_there_is_output(fake: Fake) -> None:
    container = await fake.run("sh", "-c", "read x; echo $x", OpenStdin=True)
    async with connected(fake.socket) as wire:
        await streaming(wire, "GET", f"/containers/{container.id}/logs?stdout=1&follow=1")
        container.process.type(b"hello\n")
        assert (await wire.chunk())[8:] == b"hello\n"
        assert await wire.chunk() == b""


async def test_follow_over_a_rotation(fake: Fake) -> None:
    container = await fake.run("sh", "-c", "echo 1; read x; echo 2; read x; echo 3", OpenStdin=True)
    log = container.log_path
    async with connected(fake.socket) as wire:
        await streaming(wire, "GET", f"/containers/{container.id}/logs?stdout=1&follow=1")
        assert (await wire.chunk())[8:] == b"1\n"
        os.rename(log, f"{log}.1")  # noqa: PTH104
        container.process.type(b"\n")
        assert (await wire.chunk())[8:] == b"2\n"
        container.process.type(b"\n")
        assert (await wire.chunk())[8:] == b"3\n"
        assert await wire.chunk() == b""


async def test_follow_of_a_container_that_does_not_run_ends_at_once(fake: Fake) -> None:
    container = await fake.create("true")
    assert (await fake.call("GET", f"/containers/{container.id}/logs?stdout=1&follow=1")).body == b""


async def test_follow_of_a_container_that_ends_meanwhile_ends_too(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs when it is looked at, and has no shim any more when that is wanted."""
    container = await fake.run("sh", "-c", "echo last; read x", OpenStdin=True)

    async def too_late() -> None:
        container.process.type(b"\n")
        await container.process.exited.wait()
        await eventually(lambda: not container.phase.alive)
        raise NotFound(f"container {container.id} is not running")

    monkeypatch.setattr(container, "listen", too_late)
    reply = await fake.call("GET", f"/containers/{container.id}/logs?stdout=1&follow=1")
    assert reply.body[8:] == b"last\n"


async def test_follow_until_a_moment_ends_then(fake: Fake) -> None:
    container = await fake.run("sh", "-c", "echo now; sleep 100")
    until = f"{time.time() + 0.3:.6f}"
    reply = await fake.call("GET", f"/containers/{container.id}/logs?stdout=1&follow=1&until={until}")
    assert reply.body[8:] in (b"now\n", b"")


async def test_events_are_subscribed_before_their_headers(fake: Fake) -> None:
    filters = quote(json.dumps({"type": ["container"], "event": ["create"]}))
    async with connected(fake.socket) as wire:
        await streaming(wire, "GET", f"/events?filters={filters}")
        container = await fake.create("true", name="web")
        event = json.loads(await wire.chunk())
        assert (event["Type"], event["Action"], event["Actor"]["ID"]) == ("container", "create", container.id)
        assert (event["status"], event["from"], event["Actor"]["Attributes"]["name"]) == ("create", "busybox", "web")


async def test_events_of_the_past_end(fake: Fake) -> None:
    await fake.create("true")
    now = time.time()
    reply = await fake.call("GET", f"/events?since={now - 100:.0f}&until={now:.6f}")
    assert [json.loads(line)["Action"] for line in reply.body.splitlines()] == ["create"]
    assert (await fake.call("GET", "/events?since=10&until=5")).status == 400
    assert (await fake.call("GET", "/events?filters=%7B%22nosuch%22%3A%5B%5D%7D")).status == 400


async def test_clients_that_leave_end_their_streams(fake: Fake) -> None:
    """Neither handler nor subscription may outlive the client, also when it half-closed first."""
    container = await fake.run("sleep", "100")
    tasks = len(asyncio.all_tasks())
    for target in ("/events", f"/containers/{container.id}/logs?stdout=1&follow=1"):
        for half_close in (False, True):
            async with connected(fake.socket) as wire:
                await streaming(wire, "GET", target)
                if half_close:
                    wire.writer.write_eof()
                    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        while len(asyncio.all_tasks()) > tasks + 1:  # noqa: ASYNC110 - nobody announces the end of a task
            await asyncio.sleep(0.01)


async def test_an_error_in_the_middle_breaks_logs_off(fake: Fake) -> None:
    """No proper end, that would make them look complete."""
    container = await fake.run("sh", "-c", "echo 1; sleep 100")
    async with connected(fake.socket) as wire:
        await streaming(wire, "GET", f"/containers/{container.id}/logs?stdout=1&follow=1")
        assert (await wire.chunk())[8:] == b"1\n"
        os.rename(container.log_path, f"{container.log_path}.1")  # noqa: PTH104
        os.mkdir(container.log_path)  # noqa: PTH102 - what is no file cannot be read
        container.followers[0].write(b".")
        assert await wire.rest() == b""


async def test_an_error_in_the_middle_breaks_a_hijacked_stream_off(fake: Fake) -> None:
    """No second status line among the bytes."""
    container = await fake.run("sleep", "100")
    os.makedirs(container.log_path)  # noqa: PTH103
    async with connected(fake.socket) as wire:
        wire.send(request("POST", f"/containers/{container.id}/attach?stream=1&stdout=1&logs=1"))
        assert (await wire.head())[0] == 200
        assert await wire.rest() == b""


async def test_an_error_before_the_first_line_of_logs_has_its_status(fake: Fake) -> None:
    container = await fake.run("sleep", "100")
    os.makedirs(container.log_path)  # noqa: PTH103
    reply = await fake.call("GET", f"/containers/{container.id}/logs?stdout=1")
    assert reply.status == 500 and reply.message.startswith("cannot read log ")
