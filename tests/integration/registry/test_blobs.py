"""Blobs over HTTP: whole, in ranges, conditional, deleted."""

from __future__ import annotations

import asyncio
import os

import pytest

from bulkhead.model.digest import Digest
from tests.integration.registry.wire import LAYER, UNKNOWN, Peer, open_peer

BIG = os.urandom(5 << 20)


async def test_a_blob_is_served_with_what_clients_rely_on(peer: Peer) -> None:
    digest = await peer.blob("app", LAYER)
    for method, body in (("GET", LAYER), ("HEAD", b"")):
        reply = await peer.ask(method, f"/v2/app/blobs/{digest}")
        assert (reply.status, reply.body) == (200, body)
        assert reply.headers["Content-Length"] == str(len(LAYER))
        assert reply.headers["Content-Type"] == "application/octet-stream"
        assert reply.headers["Docker-Content-Digest"] == str(digest)
        assert reply.headers["ETag"] == f'"{digest}"'
        assert reply.headers["Accept-Ranges"] == "bytes"
        assert reply.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


async def test_large_blobs_arrive_whole_to_many_at_once(peer: Peer) -> None:
    digest = await peer.blob("app", BIG)
    replies = await asyncio.gather(*(peer.ask("GET", f"/v2/app/blobs/{digest}") for _ in range(8)))
    assert all(reply.body == BIG for reply in replies)


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-9", 5, 10),
        ("bytes=5-", 5, 20),
        ("bytes=-3", 17, 20),
        ("bytes=-100", 0, 20),
        ("bytes=0-999", 0, 20),
        ("bytes=19-19", 19, 20),
    ],
)
async def test_a_range_is_honoured(peer: Peer, header: str, start: int, end: int) -> None:
    digest = await peer.blob("app", LAYER)
    reply = await peer.ask("GET", f"/v2/app/blobs/{digest}", headers={"Range": header})
    assert (reply.status, reply.body) == (206, LAYER[start:end])
    assert reply.headers["Content-Range"] == f"bytes {start}-{end - 1}/20"


@pytest.mark.parametrize("header", ["bytes=20-", "bytes=999-1000", "bytes=-0"])
async def test_a_range_beyond_the_end_is_refused(peer: Peer, header: str) -> None:
    digest = await peer.blob("app", LAYER)
    reply = await peer.ask("GET", f"/v2/app/blobs/{digest}", headers={"Range": header})
    assert (reply.status, reply.headers["Content-Range"]) == (416, "bytes */20")


@pytest.mark.parametrize("header", ["bytes=5-2", "bytes=-", "bytes=0-1,4-5", "items=0-1", "bytes=a-b", "bytes=1-2-3"])
async def test_a_range_that_makes_no_sense_is_the_whole(peer: Peer, header: str) -> None:
    digest = await peer.blob("app", LAYER)
    reply = await peer.ask("GET", f"/v2/app/blobs/{digest}", headers={"Range": header})
    assert (reply.status, reply.body) == (200, LAYER)


async def test_a_range_counts_only_if_the_blob_is_still_that_one(peer: Peer) -> None:
    digest = await peer.blob("app", LAYER)
    for condition, status in ((f'"{digest}"', 206), (f'"{UNKNOWN}"', 200)):
        headers = {"Range": "bytes=1-2", "If-Range": condition}
        assert (await peer.ask("GET", f"/v2/app/blobs/{digest}", headers=headers)).status == status


async def test_who_has_it_is_told_so(peer: Peer) -> None:
    digest = await peer.blob("app", LAYER)
    for tag in (f'"{digest}"', str(digest), f'W/"{digest}"', f'"x", "{digest}"', "*"):
        reply = await peer.ask("GET", f"/v2/app/blobs/{digest}", headers={"If-None-Match": tag})
        assert (reply.status, reply.body) == (304, b"")
    reply = await peer.ask("GET", f"/v2/app/blobs/{digest}", headers={"If-None-Match": '"other"'})
    assert reply.status == 200


async def test_a_blob_is_seen_only_by_repositories_that_have_it(peer: Peer) -> None:
    digest = await peer.blob("app", LAYER)
    for path in (f"/v2/other/blobs/{digest}", f"/v2/app/blobs/{UNKNOWN}"):
        reply = await peer.ask("GET", path)
        assert (reply.status, reply.code) == (404, "BLOB_UNKNOWN")
        head = await peer.ask("HEAD", path)
        assert (head.status, head.body) == (404, b"")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v2/app/blobs/sha256:short", "DIGEST_INVALID"),
        ("/v2/app/blobs/nodigest", "DIGEST_INVALID"),
        (f"/v2/app/blobs/md5:{'0' * 32}", "DIGEST_INVALID"),
        (f"/v2/UPPER/blobs/{UNKNOWN}", "NAME_INVALID"),
        (f"/v2/../blobs/{UNKNOWN}", "NAME_INVALID"),
        (f"/v2/a/../../b/blobs/{UNKNOWN}", "NAME_INVALID"),
        (f"/v2/%2e%2e/blobs/{UNKNOWN}", "NAME_INVALID"),
        (f"/v2/..%2f..%2fetc/blobs/{UNKNOWN}", "NAME_INVALID"),
        (f"/v2/_links/blobs/{UNKNOWN}", "NAME_INVALID"),
        (f"/v2/a//b/blobs/{UNKNOWN}", "NAME_INVALID"),
        (f"/v2/a%00b/blobs/{UNKNOWN}", "NAME_INVALID"),
        (f"/v2/{'a' * 256}/blobs/{UNKNOWN}", "NAME_INVALID"),
    ],
)
async def test_bad_names_never_become_paths(peer: Peer, path: str, code: str) -> None:
    reply = await peer.ask("GET", path)
    assert (reply.status, reply.code) == (400, code)


async def test_a_blob_is_deleted_unless_a_manifest_needs_it(peer: Peer) -> None:
    image = await peer.image("app", "v1")
    layer = Digest.of(LAYER)
    reply = await peer.ask("DELETE", f"/v2/app/blobs/{layer}")
    assert (reply.status, reply.code) == (405, "UNSUPPORTED")
    assert (await peer.ask("DELETE", f"/v2/app/manifests/{image}")).status == 202
    assert (await peer.ask("DELETE", f"/v2/app/blobs/{layer}")).status == 202
    assert (await peer.ask("GET", f"/v2/app/blobs/{layer}")).status == 404
    assert (await peer.ask("DELETE", f"/v2/app/blobs/{layer}")).code == "BLOB_UNKNOWN"


async def test_deleting_in_one_repository_leaves_another_alone(peer: Peer) -> None:
    digest = await peer.blob("a", LAYER)
    await peer.blob("b", LAYER)
    assert (await peer.ask("DELETE", f"/v2/a/blobs/{digest}")).status == 202
    assert (await peer.ask("GET", f"/v2/a/blobs/{digest}")).status == 404
    assert (await peer.ask("GET", f"/v2/b/blobs/{digest}")).body == LAYER


async def test_a_registry_that_forbids_deletion_deletes_nothing(peer: Peer) -> None:
    async with open_peer(peer.root.parent / "frozen", delete=False) as frozen:
        image = await frozen.image("app", "v1")
        for path in (f"blobs/{Digest.of(LAYER)}", f"manifests/{image}", "manifests/v1"):
            reply = await frozen.ask("DELETE", f"/v2/app/{path}")
            assert (reply.status, reply.code) == (405, "UNSUPPORTED")
        assert (await frozen.ask("GET", "/v2/app/manifests/v1")).status == 200


async def test_a_client_that_leaves_in_the_middle_disturbs_nobody(peer: Peer) -> None:
    digest = await peer.blob("app", BIG)
    host, port = peer.base.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /v2/app/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readexactly(1000)
    writer.transport.abort()
    assert (await peer.ask("GET", f"/v2/app/blobs/{digest}")).body == BIG
