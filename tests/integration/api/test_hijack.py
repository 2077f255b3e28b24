"""Attach and exec: the connection becomes a raw stream, and not a byte of it is lost."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import time
from typing import Any

import pytest

from bulkhead.model.lifecycle import Phase
from tests.integration.api.conftest import Fake
from tests.support.eventually import eventually
from tests.support.raw_http import Wire, connected, request

UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}
ALL = "stream=1&stdin=1&stdout=1&stderr=1"
STDIN: dict[str, Any] = {"OpenStdin": True, "StdinOnce": True, "AttachStdin": True}


def unframed(stream: bytes) -> bytes:
    """What frames of stdout hold."""
    found, position = b"", 0
    while position < len(stream):
        kind, size = struct.unpack_from(">BxxxL", stream, position)
        assert kind == 1
        position += 8 + size
        found += stream[position - size : position]
    return found


async def attached(fake: Fake, wire: Wire, ref: str, query: str = ALL, version: str = "") -> dict[str, str]:
    wire.send(request("POST", f"{version}/containers/{ref}/attach?{query}", **UPGRADE))
    status, headers = await wire.head()
    assert status == 101
    return headers


@pytest.mark.parametrize(
    ("tty", "version", "content_type"),
    [
        (False, "", "application/vnd.docker.multiplexed-stream"),
        (True, "", "application/vnd.docker.raw-stream"),
        (False, "/v1.41", "application/vnd.docker.raw-stream"),
    ],
)
async def test_the_handshake_of_go(fake: Fake, tty: bool, version: str, content_type: str) -> None:
    container = await fake.create("echo", "hi", Tty=tty)
    async with connected(fake.socket) as wire:
        headers = await attached(fake, wire, container.id, version=version)
        assert headers["content-type"] == content_type
        assert (headers["connection"], headers["upgrade"]) == ("Upgrade", "tcp")


async def test_without_upgrade_it_is_a_bare_200(fake: Fake) -> None:
    container = await fake.create("echo", "hi")
    async with connected(fake.socket) as wire:
        wire.send(request("POST", f"/containers/{container.id}/attach?{ALL}"))
        status, headers = await wire.head()
        assert status == 200
        assert headers["content-type"] == "application/vnd.docker.raw-stream"
        assert "content-length" not in headers and "transfer-encoding" not in headers
        await fake.call("POST", f"/containers/{container.id}/start")
        assert await wire.frame() == (1, b"hi\n")
        assert await wire.rest() == b""


async def test_both_streams_arrive_until_the_process_ends(fake: Fake) -> None:
    container = await fake.create("sh", "-c", "echo out; read x; echo err >&2", **STDIN)
    async with connected(fake.socket) as wire:
        await attached(fake, wire, container.id)
        await fake.call("POST", f"/containers/{container.id}/start")
        assert await wire.frame() == (1, b"out\n")
        wire.send("go\n")
        assert await wire.frame() == (2, b"err\n")
        assert await wire.rest() == b""


async def test_half_close_ends_stdin_but_not_stdout(fake: Fake) -> None:
    container = await fake.create("sh", "-c", "cat; echo done", **STDIN)
    async with connected(fake.socket) as wire:
        await attached(fake, wire, container.id)
        await fake.call("POST", f"/containers/{container.id}/start")
        wire.send("typed")
        wire.writer.write_eof()
        said = b""
        while not said.endswith(b"done\n"):
            said += (await wire.frame())[1]
        assert said == b"typeddone\n"
        assert await wire.rest() == b""


@pytest.mark.parametrize("upgrade", [True, False])
async def test_bytes_sent_behind_the_request_are_input(fake: Fake, upgrade: bool) -> None:
    """Everything in one write, half-closed at once: how a shell script talks."""
    container = await fake.run("sh", "-c", "cat", **STDIN)
    async with connected(fake.socket) as wire:
        head = request("POST", f"/containers/{container.id}/attach?{ALL}", **(UPGRADE if upgrade else {}))
        wire.send(head + b"POST /containers/x/kill HTTP/1.1\r\n\r\n")
        wire.writer.write_eof()
        assert (await wire.head())[0] == (101 if upgrade else 200)
        assert await wire.frame() == (1, b"POST /containers/x/kill HTTP/1.1\r\n\r\n")
        assert await wire.rest() == b""


async def test_a_lot_both_ways(fake: Fake) -> None:
    """More than any buffer on the way: back-pressure, not loss."""
    container = await fake.run("cat", **STDIN)
    data = bytes(range(256)) * (4 << 12)
    async with connected(fake.socket) as wire:
        await attached(fake, wire, container.id)

        async def send() -> None:
            for start in range(0, len(data), 1 << 16):
                wire.send(data[start : start + (1 << 16)])
                await wire.writer.drain()
            wire.writer.write_eof()

        sending = asyncio.ensure_future(send())
        echoed = b""
        while len(echoed) < len(data):
            echoed += (await wire.frame())[1]
        await sending
        assert echoed == data


async def test_a_client_that_leaves_costs_only_its_stream(fake: Fake) -> None:
    container = await fake.run("sh", "-c", "while :; do echo x; sleep 0.05; done")
    async with connected(fake.socket) as wire:
        await attached(fake, wire, container.id, "stream=1&stdout=1")
        await wire.frame()
    async with connected(fake.socket) as wire:
        await attached(fake, wire, container.id, "stream=1&stdout=1")
        stream, said = await wire.frame()
        assert (stream, set(said.splitlines())) == (1, {b"x"}), "on a busy machine several lines are carried at once"
    assert container.phase is Phase.RUNNING


async def test_a_half_closed_client_that_leaves_later_is_noticed(fake: Fake) -> None:
    """A silent process never makes a write fail: the hang-up itself must be seen."""
    container = await fake.run("sleep", "100")
    async with connected(fake.socket) as wire:
        await attached(fake, wire, container.id, "stream=1&stdout=1")
        wire.writer.write_eof()
        (shim_side, _), *_ = container.process.peers
    async with asyncio.timeout(10):
        await shim_side.wait_closed() if shim_side.is_closing() else await _closed(container)


async def _closed(container: Any) -> None:
    """The API has closed its stream: writing to it fails sooner or later."""
    writer = container.process.peers[0][0]
    while not writer.transport.is_closing():
        writer.write(b"x")
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("query", "ref", "status", "text"),
    [
        (ALL, "nosuch", 404, "No such container: nosuch\r\n"),
        (ALL + "&detachKeys=foo", "there", 400, "Invalid detach keys (foo) provided\r\n"),
        (ALL, "paused", 409, "container paused is paused, unpause the container before attach\r\n"),
    ],
)
async def test_attach_errors_are_plain_text_on_the_stream(
    fake: Fake, query: str, ref: str, status: int, text: str
) -> None:
    await fake.create("true", name="there")
    (await fake.run("sleep", "100", name="paused")).phase = Phase.PAUSED
    async with connected(fake.socket) as wire:
        wire.send(request("POST", f"/containers/{ref}/attach?{query}", **UPGRADE))
        found, headers = await wire.head()
        assert (found, headers["content-type"]) == (status, "application/vnd.docker.raw-stream")
        assert await wire.rest() == text.encode()


async def test_attach_with_neither_stream_nor_logs_returns_at_once(fake: Fake) -> None:
    container = await fake.run("sleep", "100")
    async with connected(fake.socket) as wire:
        await attached(fake, wire, container.id, "stdout=1")
        assert await wire.rest() == b""


async def test_attach_asks_again_for_a_shim_that_is_gone(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manager died as it had answered, and gave the shim back when it returned: nobody was attached yet."""
    container = await fake.create("echo", "hi")
    listen, asked = container.listen, [False]

    async def listen_the_second_time() -> None:
        if asked.pop():
            await listen()
        asked.append(True)

    monkeypatch.setattr(container, "listen", listen_the_second_time)
    async with connected(fake.socket) as wire:
        await attached(fake, wire, container.id)
        monkeypatch.undo()
        await fake.call("POST", f"/containers/{container.id}/start")
        assert await wire.frame() == (1, b"hi\n")


async def test_attach_replays_the_log_first(fake: Fake) -> None:
    container = await fake.run("sh", "-c", "echo before; read x; echo after", **STDIN)
    async with connected(fake.socket) as log, connected(fake.socket) as wire:
        log.send(request("GET", f"/containers/{container.id}/logs?stdout=1&follow=1"))
        await log.head()
        await log.chunk()
        await attached(fake, wire, container.id, ALL + "&logs=1")
        assert await wire.frame() == (1, b"before\n")
        wire.send("go\n")
        assert await wire.frame() == (1, b"after\n")


async def exec_id(fake: Fake, container: str, *command: str, **config: Any) -> str:
    body = {"Cmd": list(command), "AttachStdout": True, "AttachStderr": True, **config}
    reply = await fake.call("POST", f"/containers/{container}/exec", body)
    assert reply.status == 201
    made: str = reply.json["Id"]
    return made


@pytest.mark.parametrize("headers", [UPGRADE, {"Upgrade": "tcp"}, {}])
async def test_exec_streams_and_keeps_its_code(fake: Fake, headers: dict[str, str]) -> None:
    container = await fake.run("sleep", "100")
    made = await exec_id(fake, container.id, "sh", "-c", "cat; exit 3", AttachStdin=True)
    async with connected(fake.socket) as wire:
        wire.send(request("POST", f"/exec/{made}/start", {"Detach": False, "Tty": False}, **headers) + b"early ")
        assert (await wire.head())[0] == (101 if headers else 200)
        wire.send("late")
        wire.writer.write_eof()
        said = b""
        while said != b"early late":
            said += (await wire.frame())[1]
        assert await wire.rest() == b""
    shown = (await fake.call("GET", f"/exec/{made}/json")).json
    assert (shown["ExitCode"], shown["Running"], shown["ContainerID"]) == (3, False, container.id)
    again = await fake.call("POST", f"/exec/{made}/start", {})
    assert (again.status, again.message) == (409, f"exec command {made} has already run")


@pytest.mark.parametrize(("expecting", "asked"), [("", False), ("unknown", True), ("away", True)])
async def test_an_exec_whose_shim_expects_it_is_started_there(fake: Fake, expecting: str, asked: bool) -> None:
    """The manager is asked only when the shim does not serve it."""
    container = await fake.run("sleep", "100")
    fake.manager.expecting = expecting
    made = await exec_id(fake, container.id, "echo", "hello")
    async with connected(fake.socket) as wire:
        wire.send(request("POST", f"/exec/{made}/start", {}, **UPGRADE))
        await wire.head()
        assert await wire.frame() == (1, b"hello\n")
    assert fake.manager.asked_starts == ([made] if asked else [])
    assert fake.manager.unanswered == []


async def test_an_exec_of_a_container_by_its_id_is_created_at_its_shim(fake: Fake) -> None:
    container = await fake.run("sleep", "100")
    fake.manager.shims_create = True
    made = await exec_id(fake, container.id, "echo", "hello")
    async with connected(fake.socket) as wire:
        wire.send(request("POST", f"/exec/{made}/start", {}, **UPGRADE))
        await wire.head()
        assert await wire.frame() == (1, b"hello\n")
    await eventually(lambda: _has_ended(fake, made))
    assert fake.manager.asked_creates == fake.manager.asked_starts == []


@pytest.mark.parametrize("more", [{"User": "nobody"}, {"Env": ["A=1"]}, {"WorkingDir": "/"}, {"Privileged": True}])
async def test_one_that_asks_for_more_than_a_command_is_the_managers(fake: Fake, more: dict[str, Any]) -> None:
    container = await fake.run("sleep", "100")
    fake.manager.shims_create = True
    await exec_id(fake, container.id, "true", **more)
    await exec_id(fake, container.name, "true")
    assert fake.manager.asked_creates == [container.id, container.id]


async def test_an_exec_that_nobody_says_has_started_is_not_started_twice(fake: Fake) -> None:
    container = await fake.run("sleep", "100")
    fake.manager.expecting = "silent"
    made = await exec_id(fake, container.id, "echo", "hello")
    reply = await fake.call("POST", f"/exec/{made}/start", {})
    assert reply.status == 503
    assert fake.manager.asked_starts == []
    assert fake.manager.unanswered == [made]


async def test_an_exec_whose_container_ends_as_it_is_started_is_refused_for_that(fake: Fake) -> None:
    container = await fake.run("sleep", "100")
    fake.manager.expecting, fake.manager.ends_at_exec = "away", True
    made = await exec_id(fake, container.id, "true")
    reply = await fake.call("POST", f"/exec/{made}/start", {})
    assert (reply.status, reply.message) == (409, f"Container {container.id} is not running")


@pytest.mark.parametrize(("size", "asked"), [([5, 9], True), ([3, 4], False), (None, False)])
async def test_another_size_of_the_terminal_has_to_be_asked_for(
    fake: Fake, size: list[int] | None, asked: bool
) -> None:
    container = await fake.run("sleep", "100")
    made = await exec_id(fake, container.id, "true", Tty=True, ConsoleSize=[3, 4])
    async with connected(fake.socket) as wire:
        wire.send(request("POST", f"/exec/{made}/start", {"Tty": True, "ConsoleSize": size}, **UPGRADE))
        await wire.head()
        await wire.rest()
    assert fake.manager.asked_starts == ([made] if asked else [])


async def _has_ended(fake: Fake, made: str) -> bool:
    code: int | None = (await fake.call("GET", f"/exec/{made}/json")).json["ExitCode"]
    return code == 0


@pytest.mark.parametrize("size", [5, 1_000_000])
async def test_output_waits_until_the_head_of_the_answer_was_read(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """docker-py reads the head through a buffer, then the socket beneath it: what else is in the buffer is lost."""
    monkeypatch.setattr("bulkhead.api.head_first.HEAD_SECONDS", 60.0)
    container = await fake.run("sleep", "100")
    made = await exec_id(fake, container.id, "head", "-c", str(size), "/dev/zero")
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        await loop.sock_connect(client, str(fake.socket))
        await loop.sock_sendall(client, request("POST", f"/exec/{made}/start", {}, **UPGRADE))
        if size < 1000:  # one that says more has to wait for its reader
            await eventually(lambda: _has_ended(fake, made))
        async with asyncio.timeout(20):
            assert (await loop.sock_recv(client, 1 << 20)).endswith(b"\r\n\r\n")
            said = b""
            while part := await loop.sock_recv(client, 1 << 20):
                said += part
    assert unframed(said) == bytes(size)


async def test_exec_errors_before_the_hijack_are_json_and_leave_the_connection(fake: Fake) -> None:
    async with connected(fake.socket) as wire:
        wire.send(request("POST", "/exec/nosuch/start", {}, **UPGRADE) + request("GET", "/_ping"))
        assert (await wire.reply()).message == "No such exec instance: nosuch"
        assert (await wire.reply()).body == b"OK"


@pytest.mark.parametrize(
    ("path", "body", "content_type"),
    [
        pytest.param("/exec/nosuch/start", b"{}", "application/json", id="nosuch"),
        pytest.param("/exec/nosuch/start", b"{", "application/json", id="no JSON"),
        pytest.param("/exec/nosuch/start", b'{"Tty": 3}', "application/json", id="wrong type"),
        pytest.param("/exec/nosuch/start", b"{}", "text/plain", id="wrong kind"),
        pytest.param("/v1.12/exec/nosuch/start", b"{}", "application/json", id="too old"),
        pytest.param("/v9.99/exec/nosuch/start", b"{}", "application/json", id="too new"),
        pytest.param("/containers/nosuch/attach?stream=1", b"", "application/json", id="attach"),
        pytest.param("/containers/nosuch/attach?detachKeys=f0", b"", "application/json", id="keys"),
    ],
)
async def test_a_raw_stream_is_refused_alike_whoever_has_read_the_request(
    fake: Fake, path: str, body: bytes, content_type: str
) -> None:
    """A field told twice makes a request aiohttp's."""
    told = []
    for more in ("", "X-A: 1\r\nX-A: 2\r\n"):
        async with connected(fake.socket) as wire:
            raw = request("POST", path, body, Content_Type=content_type, **UPGRADE)
            wire.send(raw.replace(b"\r\n\r\n", f"\r\n{more}\r\n".encode(), 1))
            wire.send(request("GET", "/_ping", Connection="close"))
            told.append(re.sub(rb"Date: [^\r]*", b"Date:", await wire.rest()))
    assert told[0] == told[1] != b""


async def test_a_stream_took_until_its_end_was_told(fake: Fake) -> None:
    """What is put away after that is no part of it."""
    container = await fake.run("sleep", "100")
    made = await exec_id(fake, container.id, "true")
    began = time.monotonic()
    async with connected(fake.socket) as wire:
        wire.send(request("POST", f"/exec/{made}/start", {}, **UPGRADE))
        await wire.rest()
        ended = time.monotonic()
        # It is put away only after its client has left.
        await asyncio.sleep(0.1)

    async def told() -> bool:
        text = (await fake.call("GET", "/metrics")).body.decode()
        found.extend(re.findall(r'request_seconds_sum\{route="/exec/\{id\}/start"\} (\S+)', text))
        return bool(found)

    found: list[str] = []
    await eventually(told)
    assert float(found[0]) <= ended - began


async def test_exec_that_cannot_be_run_says_so_in_the_stream(fake: Fake) -> None:
    container = await fake.run("sleep", "100")
    made = await exec_id(fake, container.id, "nosuchcommand")
    async with connected(fake.socket) as wire:
        wire.send(request("POST", f"/exec/{made}/start", {}, **UPGRADE))
        await wire.head()
        assert b'exec: "nosuchcommand": executable file not found in $PATH' in (await wire.frame())[1]
    assert (await fake.call("GET", f"/exec/{made}/json")).json["ExitCode"] == 127


async def test_detached_exec(fake: Fake) -> None:
    container = await fake.run("sleep", "100")
    made = await exec_id(fake, container.id, "true")
    assert (await fake.call("POST", f"/exec/{made}/start", {"Detach": True})).status == 200
    bad = await exec_id(fake, container.id, "nosuchcommand")
    reply = await fake.call("POST", f"/exec/{bad}/start", {"Detach": True})
    assert reply.status == 400 and "executable file not found" in reply.message


async def test_exec_in_a_stopped_container_is_a_conflict(fake: Fake) -> None:
    container = await fake.create("true")
    reply = await fake.call("POST", f"/containers/{container.id}/exec", {"Cmd": ["true"]})
    assert (reply.status, reply.message) == (409, f"Container {container.id} is not running")
    empty = await fake.call("POST", f"/containers/{container.id}/exec", {})
    assert (empty.status, empty.message) == (400, "No exec command specified")


async def test_terminals_are_raw_and_can_be_resized(fake: Fake) -> None:
    container = await fake.create("sh", "-c", "read x; stty size", Tty=True, OpenStdin=True)
    async with connected(fake.socket) as wire:
        await attached(fake, wire, container.id)
        early = await fake.call("POST", f"/containers/{container.id}/resize?h=1&w=1")
        assert early.status == 409
        await fake.call("POST", f"/containers/{container.id}/start")
        assert (await fake.call("POST", f"/containers/{container.id}/resize?h=33&w=77")).status == 200
        wire.send("\n")
        assert b"33 77\r\n" in await wire.rest()


@pytest.mark.parametrize("query", ["", "h=1", "h=x&w=1", "h=-1&w=1", "h=1&w=99999999999"])
async def test_resize_needs_both_numbers(fake: Fake, query: str) -> None:
    reply = await fake.call("POST", f"/containers/x/resize?{query}")
    assert reply.status == 400
    assert reply.message.startswith("strconv.ParseUint: parsing ")
