"""Section 0 of the API's reference: rules common to all routes, on a real socket."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from urllib.parse import quote

import pytest

from tests.integration.api.conftest import Fake
from tests.support.raw_http import connected, request


async def test_ping_by_get_and_head(fake: Fake) -> None:
    get = await fake.call("GET", "/_ping")
    assert (get.status, get.body, get.headers["content-type"]) == (200, b"OK", "text/plain; charset=utf-8")
    head = await fake.call("HEAD", "/v1.24/_ping")
    assert (head.status, head.headers["content-length"]) == (200, "0")
    for reply in (get, head):
        assert reply.headers["api-version"] == "1.51"
        assert reply.headers["ostype"] == "linux"
        assert reply.headers["server"].startswith("Docker/")
        assert reply.headers["swarm"] == "inactive"
        assert "no-store" in reply.headers["cache-control"]


async def test_the_version_prefix_is_optional(fake: Fake) -> None:
    plain, prefixed = await fake.call("GET", "/version"), await fake.call("GET", "/v1.41/version")
    assert plain.json == prefixed.json
    assert plain.json["ApiVersion"] == "1.51" and plain.json["MinAPIVersion"] == "1.24"


async def test_too_new_is_json_with_headers(fake: Fake) -> None:
    reply = await fake.call("GET", "/v1.99/info")
    assert reply.status == 400
    assert reply.message == "client version 1.99 is too new. Maximum supported API version is 1.51"
    assert reply.headers["api-version"] == "1.51"


async def test_too_old_is_plain_text(fake: Fake) -> None:
    """Such clients do not expect JSON."""
    reply = await fake.call("GET", "/v1.10/info")
    assert reply.status == 400
    assert reply.headers["content-type"].startswith("text/plain")
    assert reply.body.startswith(b"client version 1.10 is too old. Minimum supported API version is 1.24, please")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/nosuch"), ("POST", "/version"), ("GET", "/v1.41/nosuch"), ("GET", "/vx/version")]
)
async def test_unknown_paths_and_methods_are_not_found(fake: Fake, method: str, path: str) -> None:
    reply = await fake.call(method, path)
    assert (reply.status, reply.body) == (404, b'{"message":"page not found"}\n')
    assert "api-version" not in reply.headers


async def test_options_is_answered_everywhere(fake: Fake) -> None:
    assert (await fake.call("OPTIONS", "/anything")).status == 200


async def test_errors_are_json_with_a_newline(fake: Fake) -> None:
    reply = await fake.call("GET", "/containers/nosuch/json")
    assert (reply.status, reply.headers["content-type"]) == (404, "application/json")
    assert reply.message == "No such container: nosuch"


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        (b"{", "application/json", "invalid JSON"),
        (b'{"Image":"x"}{}', "application/json", "unexpected content after JSON"),
        (b'{"Image":7}', "application/json", "invalid JSON"),
        (b"{}", "text/plain", "unsupported Content-Type header (text/plain): must be 'application/json'"),
        (b"{}", "application/x-www-form-urlencoded", "must be 'application/json'"),
        (b"{}", "", "malformed Content-Type header"),
        (b"{}", "application/json", "Config cannot be empty in order to create a container"),
        (b"null", "application/json", "Config cannot be empty in order to create a container"),
        (b"", "application/json", "Config cannot be empty in order to create a container"),
        (b'{"Image":"x","Pad":"' + b"x" * (9 << 20) + b'"}', "application/json", "request body is larger than"),
    ],
)
async def test_bad_bodies(fake: Fake, body: bytes, content_type: str, text: str) -> None:
    reply = await fake.call("POST", "/containers/create", body, Content_Type=content_type)
    assert reply.status == 400
    assert text in reply.message


async def test_bad_filters_and_numbers(fake: Fake) -> None:
    assert (await fake.call("GET", "/containers/json?filters={")).status == 400
    assert (await fake.call("GET", "/containers/json?filters=%7B%22foo%22%3A%5B%22x%22%5D%7D")).status == 400
    reply = await fake.call("GET", "/containers/json?limit=x")
    assert reply.message == 'strconv.Atoi: parsing "x": invalid syntax'


async def test_requests_that_are_no_http_are_refused(fake: Fake) -> None:
    async with connected(fake.socket) as wire:
        wire.send(b"\x16\x03\x01 hello\r\n\r\n")
        reply = await wire.reply()
        assert (reply.status, reply.message) == (400, "malformed HTTP request")
        assert await wire.rest() == b""


async def test_what_is_not_unicode_is_refused(fake: Fake) -> None:
    """It could be neither looked up, nor logged, nor answered."""
    for target in (b"/containers/\xff/json", b"/containers/%ff/json", b"/containers/json?filters=%ff", b"/\xff"):
        async with connected(fake.socket) as wire:
            wire.send(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await wire.reply()).status in (400, 404)


@pytest.mark.parametrize(("size", "status"), [(60_000, 200), (70_000, 200), (1_000_000, 200), (1_100_000, 431)])
async def test_heads_may_be_as_long_as_dockers(fake: Fake, size: int, status: int) -> None:
    """Filters are part of the head, and `X-Registry-Config` is: it has the passwords of all registries."""
    assert (await fake.call("GET", f"/_ping?x={'x' * size}")).status == status
    assert (await fake.call("GET", "/_ping", **{"X-Registry-Config": "x" * size})).status == status


async def test_keep_alive_and_pipelining(fake: Fake) -> None:
    async with connected(fake.socket) as wire:
        wire.send(request("GET", "/_ping") + request("POST", "/containers/x/start") + request("GET", "/_ping"))
        statuses = [(await wire.reply()).status for _ in range(3)]
        wire.send(request("GET", "/version"))
        assert [*statuses, (await wire.reply()).status] == [200, 404, 200, 200]


async def test_a_request_in_single_bytes(fake: Fake) -> None:
    """Heads that may be hijacked are collected before the parser sees them; none may get stuck."""
    for raw in (
        request("POST", "/containers/x/attach"),
        request("POST", "/containers/x/start"),
        request("GET", "/info"),
    ):
        async with connected(fake.socket) as wire:
            for index in range(len(raw)):
                wire.send(raw[index : index + 1])
                await wire.writer.drain()
                await asyncio.sleep(0)
            assert (await wire.head())[0] in (200, 404)


async def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(fake: Fake) -> None:
    """curl does so for uploads of more than a megabyte."""
    raw = request("POST", "/images/load", b"fake tar", Content_Type="application/x-tar", Expect="100-continue")
    async with connected(fake.socket) as wire:
        wire.send(raw.removesuffix(b"fake tar"))
        assert (await wire.head())[0] == 100
        wire.send("fake tar")
        assert b"Loaded image" in (await wire.reply()).body


async def test_half_closed_clients_get_their_answer(fake: Fake) -> None:
    """`printf 'GET ...' | nc -U` and `docker system dial-stdio`."""
    async with connected(fake.socket) as wire:
        wire.send(request("GET", "/info"))
        wire.writer.write_eof()
        assert (await wire.reply()).status == 200
        assert await wire.rest() == b""


@pytest.mark.parametrize("framing", ["Content-Length: 999\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n9\r\n{"])
@pytest.mark.parametrize("asked", ["POST /containers/create", "POST /images/load", "POST /exec/x/start"])
async def test_a_body_cut_off_by_half_close_is_refused_at_once(fake: Fake, asked: str, framing: str) -> None:
    async with connected(fake.socket) as wire:
        wire.send(f"{asked} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{framing}")
        wire.writer.write_eof()
        reply = await wire.reply()
        assert reply.status == (200 if "load" in asked else 400)  # which is told within its stream
        assert b"unexpected EOF" in reply.body
        assert await wire.rest() == b""


async def test_a_large_body_of_a_client_that_half_closes_behind_it_is_whole(fake: Fake) -> None:
    async with connected(fake.socket) as wire:
        wire.send(request("POST", "/images/load", b"fake tar" + bytes(8 << 20), Content_Type="application/x-tar"))
        wire.writer.write_eof()
        assert b"Loaded image" in (await wire.reply()).body
        assert len(fake.manager.loaded) == 8 + (8 << 20)


async def test_an_answer_that_needs_no_body_is_given_though_that_is_cut_off(fake: Fake) -> None:
    async with connected(fake.socket) as wire:
        wire.send("GET /_ping HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        wire.writer.write_eof()
        assert (await wire.reply()).status == 200
        assert await wire.rest() == b""


async def test_a_request_cut_off_by_half_close_is_dropped(fake: Fake) -> None:
    async with connected(fake.socket) as wire:
        wire.send(b"GET /info HTT")
        wire.writer.write_eof()
        assert await wire.rest() == b""


async def test_the_socket_is_for_root_and_one_group(fake: Fake) -> None:
    found = os.stat(fake.socket)  # noqa: PTH116
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o660


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/swarm", 503, "This node is not a swarm manager."),
        ("GET", "/nodes/x", 503, "This node is not a swarm manager."),
        ("POST", "/services/create", 503, "This node is not a swarm manager."),
        ("POST", "/swarm/leave", 503, "This node is not part of a swarm"),
        ("POST", "/swarm/init", 501, "swarm mode is not supported by this engine"),
        ("PUT", "/volumes/x", 503, "cluster volumes"),
        ("POST", "/session", 501, "DOCKER_BUILDKIT=0"),
        ("POST", "/build", 501, "building images"),
        ("GET", "/plugins/x/json", 501, "plugins"),
        ("DELETE", "/networks/bridge", 403, "bridge is a pre-defined network and cannot be removed"),
        ("GET", "/networks/nosuch", 404, "network nosuch not found"),
        ("GET", "/networks/bridge?scope=swarm", 404, "network bridge not found"),
    ],
)
async def test_what_is_not_there_is_answered_clearly(
    fake: Fake, method: str, path: str, status: int, text: str
) -> None:
    reply = await fake.call(method, path)
    assert reply.status == status
    assert method == "HEAD" or text in reply.message


async def test_empty_lists_are_lists(fake: Fake) -> None:
    assert (await fake.call("GET", "/plugins")).json == []
    assert (await fake.call("GET", "/volumes")).json == {"Volumes": [], "Warnings": []}
    assert (await fake.call("POST", "/build/prune")).json == {"CachesDeleted": None, "SpaceReclaimed": 0}


async def test_networks_are_found_by_name_id_and_prefix(fake: Fake) -> None:
    networks = {each["Name"]: each for each in (await fake.call("GET", "/networks")).json}
    assert set(networks) == {"bridge", "host", "none"}
    for ref in ("bridge", networks["bridge"]["Id"], networks["bridge"]["Id"][:12]):
        found = (await fake.call("GET", f"/networks/{ref}")).json
        assert found["Options"]["com.docker.network.bridge.name"] == "bulkhead0"
    filters = quote(json.dumps({"driver": ["null"]}))
    assert [each["Name"] for each in (await fake.call("GET", f"/networks?filters={filters}")).json] == ["none"]
