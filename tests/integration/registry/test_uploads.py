"""Uploads in every client's way (registry.md section 1), and everything that can go wrong in them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bulkhead.model.digest import Digest
from tests.integration.registry.wire import LAYER, UNKNOWN, Peer, open_peer

BIG = os.urandom(3 << 20)
STREAM = {"Content-Type": "application/octet-stream"}


async def start(peer: Peer, repository: str = "app") -> str:
    reply = await peer.ask("POST", f"/v2/{repository}/blobs/uploads/")
    assert reply.status == 202
    assert reply.headers["Range"] == "0-0"
    assert reply.headers["Docker-Upload-UUID"] in reply.headers["Location"]
    return reply.headers["Location"]


def leftovers(peer: Peer) -> list[str]:
    return [path.name for path in (peer.root / "uploads").iterdir()]


async def read(peer: Peer, data: bytes, repository: str = "app") -> bytes:
    return (await peer.ask("GET", f"/v2/{repository}/blobs/{Digest.of(data)}")).body


async def test_docker_streams_one_patch_and_puts_nothing(peer: Peer) -> None:
    location = await start(peer)

    async def body() -> AsyncIterator[bytes]:
        for begin in range(0, len(BIG), 100_000):
            yield BIG[begin : begin + 100_000]

    async with peer.session.patch(peer.base + location, data=body()) as answer:
        assert (answer.status, answer.headers["Range"]) == (202, f"0-{len(BIG) - 1}")
    done = await peer.ask("PUT", f"{location}?digest={Digest.of(BIG)}")
    assert done.status == 201
    assert done.headers["Location"] == f"/v2/app/blobs/{Digest.of(BIG)}"
    assert done.headers["Docker-Content-Digest"] == str(Digest.of(BIG))
    assert await read(peer, BIG) == BIG
    assert leftovers(peer) == []


async def test_containerd_puts_the_whole_body(peer: Peer) -> None:
    location = await start(peer)
    assert (await peer.ask("PUT", f"{location}?digest={Digest.of(BIG)}", BIG, STREAM)).status == 201
    assert await read(peer, BIG) == BIG


async def test_one_post_is_enough(peer: Peer) -> None:
    await peer.blob("app", BIG)
    assert await read(peer, BIG) == BIG
    assert leftovers(peer) == []


async def test_an_empty_blob_is_a_blob(peer: Peer) -> None:
    location = await start(peer)
    assert (await peer.ask("PUT", f"{location}?digest={Digest.of(b'')}")).status == 201
    reply = await peer.ask("GET", f"/v2/app/blobs/{Digest.of(b'')}")
    assert (reply.status, reply.body) == (200, b"")


async def test_chunks_come_in_order_or_not_at_all(peer: Peer) -> None:
    location = await start(peer)
    chunks = [BIG[:1_000_000], BIG[1_000_000:2_000_000], BIG[2_000_000:]]
    offset = 0
    for number, chunk in enumerate(chunks):
        wrong = {"Content-Range": f"{offset + 5}-{offset + 5 + len(chunk) - 1}"}
        refused = await peer.ask("PATCH", location, chunk, wrong)
        assert (refused.status, refused.headers["Range"]) == (416, f"0-{max(0, offset - 1)}")
        assert refused.headers["Location"] == location
        if number < 2:
            right = {"Content-Range": f"{offset}-{offset + len(chunk) - 1}"}
            taken = await peer.ask("PATCH", location, chunk, right)
            assert (taken.status, taken.headers["Range"]) == (202, f"0-{offset + len(chunk) - 1}")
            again = await peer.ask("PATCH", location, chunk, right)
            assert again.status == 416
            offset += len(chunk)
    last = {"Content-Range": f"{offset}-{len(BIG) - 1}"}
    assert (await peer.ask("PUT", f"{location}?digest={Digest.of(BIG)}", chunks[2], last)).status == 201
    assert await read(peer, BIG) == BIG


@pytest.mark.parametrize(
    ("header", "status", "code"),
    [
        ("0-5", 400, "SIZE_INVALID"),
        ("0-100", 400, "SIZE_INVALID"),
        ("5-0", 416, "RANGE_INVALID"),
        ("abc", 416, "RANGE_INVALID"),
        ("-5", 416, "RANGE_INVALID"),
        ("1-20", 416, "RANGE_INVALID"),
        ("99999999999999999999-5", 416, "RANGE_INVALID"),
    ],
)
async def test_a_range_that_lies_changes_nothing(peer: Peer, header: str, status: int, code: str) -> None:
    location = await start(peer)
    reply = await peer.ask("PATCH", location, LAYER, {"Content-Range": header})
    assert (reply.status, reply.code) == (status, code)
    assert (await peer.ask("GET", location)).headers["Range"] == "0-0"


async def test_the_state_of_an_upload_can_be_asked(peer: Peer) -> None:
    location = await start(peer)
    await peer.ask("PATCH", location, LAYER)
    reply = await peer.ask("GET", location)
    assert (reply.status, reply.headers["Range"], reply.headers["Location"]) == (204, "0-19", location)


async def test_a_cancelled_upload_is_gone(peer: Peer) -> None:
    location = await start(peer)
    await peer.ask("PATCH", location, LAYER)
    assert (await peer.ask("DELETE", location)).status == 204
    for method in ("GET", "DELETE", "PATCH", "PUT"):
        reply = await peer.ask(method, f"{location}?digest={UNKNOWN}")
        assert (reply.status, reply.code) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert leftovers(peer) == []


async def test_wrong_bytes_are_refused_and_the_upload_is_over(peer: Peer) -> None:
    location = await start(peer)
    reply = await peer.ask("PUT", f"{location}?digest={UNKNOWN}", LAYER)
    assert (reply.status, reply.code) == (400, "DIGEST_INVALID")
    assert (await peer.ask("GET", f"/v2/app/blobs/{UNKNOWN}")).status == 404
    assert (await peer.ask("GET", location)).status == 404
    assert leftovers(peer) == []
    reply = await peer.ask("POST", f"/v2/app/blobs/uploads/?digest={UNKNOWN}", LAYER)
    assert (reply.status, reply.code) == (400, "DIGEST_INVALID")
    assert leftovers(peer) == []


@pytest.mark.parametrize("query", ["", "?digest=", "?digest=sha256:zz", "?digest=md5:0123"])
async def test_a_put_needs_a_digest(peer: Peer, query: str) -> None:
    location = await start(peer)
    reply = await peer.ask("PUT", f"{location}{query}", LAYER)
    assert (reply.status, reply.code) == (400, "DIGEST_INVALID")


async def test_an_upload_belongs_to_its_repository(peer: Peer) -> None:
    """A session's id is no key to another repository's session."""
    location = await start(peer, "app")
    foreign = location.replace("/v2/app/", "/v2/other/")
    for method in ("GET", "DELETE", "PATCH", "PUT"):
        reply = await peer.ask(method, f"{foreign}?digest={Digest.of(LAYER)}", LAYER if method == "PUT" else None)
        assert (reply.status, reply.code) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert (await peer.ask("GET", location)).status == 204


@pytest.mark.parametrize(
    "upload_id", ["x", "00000000-0000-0000-0000-000000000000", "..", "..%2f..%2fformat", "%00", "a" * 1000]
)
async def test_an_upload_that_nobody_started_is_unknown(peer: Peer, upload_id: str) -> None:
    reply = await peer.ask("GET", f"/v2/app/blobs/uploads/{upload_id}")
    assert reply.status == 404


async def test_sha512_is_hashed_from_the_start_or_at_the_end(peer: Peer) -> None:
    digest = Digest.of(LAYER, "sha512")
    told = await peer.ask("POST", "/v2/app/blobs/uploads/?digest-algorithm=sha512")
    for location in (told.headers["Location"], await start(peer)):
        assert (await peer.ask("PUT", f"{location}?digest={digest}", LAYER)).status == 201
        assert (await peer.ask("GET", f"/v2/app/blobs/{digest}")).body == LAYER
    refused = await peer.ask("POST", "/v2/app/blobs/uploads/?digest-algorithm=md5")
    assert (refused.status, refused.code) == (400, "DIGEST_INVALID")


async def test_a_blob_is_mounted_from_where_it_is(peer: Peer) -> None:
    digest = await peer.blob("a/source", LAYER)
    reply = await peer.ask("POST", f"/v2/b/blobs/uploads/?mount={digest}&from=a/source")
    assert (reply.status, reply.headers["Location"]) == (201, f"/v2/b/blobs/{digest}")
    assert await read(peer, LAYER, "b") == LAYER


@pytest.mark.parametrize("query", ["", "&from="])
async def test_a_mount_without_a_source_finds_the_blob_unless_rights_differ(tmp_path: Path, query: str) -> None:
    for automount, status in ((True, 201), (False, 202)):
        async with open_peer(tmp_path / str(automount), automount=automount) as peer:
            digest = await peer.blob("a/source", LAYER)
            assert (await peer.ask("POST", f"/v2/b/blobs/uploads/?mount={digest}{query}")).status == status
            assert (await peer.ask("HEAD", f"/v2/b/blobs/{digest}")).status == (200 if automount else 404)
            assert (await peer.ask("POST", f"/v2/b/blobs/uploads/?mount={UNKNOWN}{query}")).status == 202


@pytest.mark.parametrize("query", ["&from=empty"])
async def test_what_cannot_be_mounted_becomes_an_upload(peer: Peer, query: str) -> None:
    digest = await peer.blob("a/source", LAYER)
    reply = await peer.ask("POST", f"/v2/b/blobs/uploads/?mount={digest}{query}")
    assert reply.status == 202
    assert (await peer.ask("GET", reply.headers["Location"])).status == 204


async def test_a_mount_with_bad_names_is_refused(peer: Peer) -> None:
    assert (await peer.ask("POST", "/v2/b/blobs/uploads/?mount=x&from=a")).code == "DIGEST_INVALID"
    assert (await peer.ask("POST", f"/v2/b/blobs/uploads/?mount={UNKNOWN}&from=../a")).code == "NAME_INVALID"


async def test_two_uploads_of_one_blob_both_succeed(peer: Peer) -> None:
    locations = [await start(peer, repository) for repository in ("a", "a", "b")]
    replies = await asyncio.gather(
        *(peer.ask("PUT", f"{location}?digest={Digest.of(BIG)}", BIG) for location in locations)
    )
    assert [reply.status for reply in replies] == [201, 201, 201]
    assert await read(peer, BIG, "a") == await read(peer, BIG, "b") == BIG
    assert leftovers(peer) == []


async def cut_off(peer: Peer, location: str, sent: bytes, promised: int) -> None:
    """A PATCH whose connection dies once the registry has begun to write."""
    host, port = peer.base.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {promised}\r\n\r\n".encode() + sent)
    [data] = (peer.root / "uploads").glob("*.data")
    async with asyncio.timeout(20):
        while data.stat().st_size == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    writer.close()
    await writer.wait_closed()


async def offset_of(peer: Peer, location: str) -> int:
    last = (await peer.ask("GET", location)).headers["Range"].removeprefix("0-")
    return int(last) + 1 if int(last) else 0


async def test_a_torn_chunk_is_continued_where_it_was_torn(peer: Peer) -> None:
    location = await start(peer)
    await cut_off(peer, location, BIG[:1_500_000], len(BIG))
    # What counts is what was written when the registry noticed; it says so in the upload's record.
    async with asyncio.timeout(20):
        while counted(peer) == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    offset = await offset_of(peer, location)
    assert 0 < offset == counted(peer) <= 1_500_000
    rest = {"Content-Range": f"{offset}-{len(BIG) - 1}"}
    assert (await peer.ask("PATCH", location, BIG[offset:], rest)).status == 202
    assert (await peer.ask("PUT", f"{location}?digest={Digest.of(BIG)}")).status == 201
    assert await read(peer, BIG) == BIG


def counted(peer: Peer) -> int:
    """Bytes that the record of the only upload says are durable."""
    [record] = (peer.root / "uploads").glob("*.json")
    return int(json.loads(record.read_bytes())["offset"])


async def test_a_client_that_comes_back_takes_the_upload_over(peer: Peer) -> None:
    """Its old connection may hang for minutes: the new one must not wait for it."""
    location = await start(peer)
    host, port = peer.base.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BIG)}\r\n\r\n".encode() + BIG[:1000])
    await writer.drain()
    reply = await peer.ask("PUT", f"{location}?digest={Digest.of(LAYER)}", LAYER)
    assert (reply.status, await read(peer, LAYER)) == (201, LAYER)
    writer.write(BIG[1000 : 2 << 20])
    assert b" 404 " in await reader.readline()
    writer.close()


async def test_an_upload_goes_on_after_a_restart(peer: Peer) -> None:
    location = await start(peer)
    await peer.ask("PATCH", location, BIG[:1_000_000])
    copy = peer.root.parent / "after"
    # What is on disk now is what a crash would leave.
    await asyncio.to_thread(_copy, peer, copy)
    async with open_peer(copy) as second:
        assert await offset_of(second, location) == 1_000_000
        assert (await second.ask("PATCH", location, BIG[1_000_000:])).status == 202
        assert (await second.ask("PUT", f"{location}?digest={Digest.of(BIG)}")).status == 201
        assert await read(second, BIG) == BIG


async def test_bytes_that_were_never_acknowledged_are_not_believed(peer: Peer) -> None:
    """After a crash the file may be longer than what was counted, and hold anything there."""
    location = await start(peer)
    await peer.ask("PATCH", location, BIG[:1_000_000])
    copy = peer.root.parent / "after"
    await asyncio.to_thread(_copy, peer, copy)
    [data] = (copy / "uploads").glob("*.data")
    data.write_bytes(data.read_bytes() + b"garbage of a torn write")
    async with open_peer(copy) as second:
        assert await offset_of(second, location) == 1_000_000
        done = await second.ask("PUT", f"{location}?digest={Digest.of(BIG)}", BIG[1_000_000:])
        assert done.status == 201


@pytest.mark.parametrize("damage", ["shorter data", "no data", "no record", "torn record"])
async def test_an_upload_that_did_not_survive_is_unknown(peer: Peer, damage: str) -> None:
    location = await start(peer)
    await peer.ask("PATCH", location, LAYER)
    copy = peer.root.parent / "after"
    await asyncio.to_thread(_copy, peer, copy)
    [data], [record] = (list((copy / "uploads").glob(pattern)) for pattern in ("*.data", "*.json"))
    if damage == "shorter data":
        data.write_bytes(b"x")
    elif damage == "torn record":
        record.write_bytes(b'{"repo')
    else:
        (data if damage == "no data" else record).unlink()
    async with open_peer(copy) as second:
        assert (await second.ask("GET", location)).status == 404


def _copy(peer: Peer, target: object) -> None:
    shutil.copytree(peer.root, str(target))
