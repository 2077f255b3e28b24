"""A big blob over several connections, and a registry that says when to come again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from aiohttp import web

from bulkhead.content.client import Registry
from bulkhead.content.download import Spans
from bulkhead.content.retries import Patience
from bulkhead.content.store import BlobStore
from bulkhead.errors import DataLoss, Unavailable
from bulkhead.model.digest import Digest
from tests.integration.content.peers import (
    IMPATIENT,
    Line,
    Scripted,
    descriptor,
    image_of,
    named,
    pushed,
    real_registry,
)

BIG = os.urandom((1 << 20) + 12345)
SMALL_SPANS = Spans(ahead=3, size=100_000, least=200_000)


def whole(store: BlobStore) -> bool:
    return store.read(Digest.of(BIG), len(BIG)) == BIG


async def test_a_big_blob_comes_in_spans(tmp_path: Path, store: BlobStore) -> None:
    fresh = BlobStore(tmp_path / "fresh")
    fresh.open()
    async with real_registry(tmp_path / "registry") as host:
        await pushed(host, "app", "latest", image_of(BIG), store)
        line = Line(int(host.rpartition(":")[2]), [])
        seen: list[int] = []
        async with line.open() as address, Registry(address, patience=IMPATIENT, spans=SMALL_SPANS) as registry:
            await registry.pull_blob("app", descriptor(BIG), fresh, seen.append)
        asked = [request for request in line.requests if b"Range: bytes=" in request]
        assert len(asked) == 11
        assert seen == sorted(seen), "what is on disk is always the beginning"
        assert whole(fresh)
    fresh.close()


async def test_spans_go_on_over_broken_lines(tmp_path: Path, store: BlobStore) -> None:
    fresh = BlobStore(tmp_path / "fresh")
    fresh.open()
    async with real_registry(tmp_path / "registry") as host:
        await pushed(host, "app", "latest", image_of(BIG), store)
        line = Line(int(host.rpartition(":")[2]), [50_000, 150_000, 10, 250_000])
        async with line.open() as address, Registry(address, patience=IMPATIENT, spans=SMALL_SPANS) as registry:
            await registry.pull_blob("app", descriptor(BIG), fresh)
        assert whole(fresh)
    fresh.close()


@pytest.mark.parametrize("first", [0, 1])
async def test_a_registry_without_ranges_sends_the_whole(store: BlobStore, first: int) -> None:
    """One that knows none, and one that changes its mind in the middle."""
    asked = 0

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal asked
        if request.path == "/v2/":
            return web.Response(body=b"{}")
        asked += 1
        if asked <= first:
            span = request.http_range
            headers = {"Content-Range": f"bytes {span.start}-{span.stop - 1}/{len(BIG)}"}
            return web.Response(status=206, body=BIG[span], headers=headers)
        return web.Response(body=BIG)

    async with (
        Scripted(answer).serving() as peer,
        Registry(peer.address, patience=IMPATIENT, spans=SMALL_SPANS) as registry,
    ):
        await registry.pull_blob("app", descriptor(BIG), store)
    assert whole(store)


async def test_a_span_with_wrong_bytes_is_found_out(store: BlobStore) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/v2/":
            return web.Response(body=b"{}")
        span = request.http_range
        headers = {"Content-Range": f"bytes {span.start}-{span.stop - 1}/{len(BIG)}"}
        return web.Response(status=206, body=BIG[span][::-1], headers=headers)

    async with (
        Scripted(answer).serving() as peer,
        Registry(peer.address, patience=IMPATIENT, spans=SMALL_SPANS) as registry,
    ):
        with pytest.raises(DataLoss, match="have digest"):
            await registry.pull_blob("app", descriptor(BIG), store)
    assert not store.has(Digest.of(BIG))
    assert list(store.partials()) == []


async def test_a_registry_that_says_when_is_asked_then(store: BlobStore) -> None:
    """429 with Retry-After: the user is told of the seconds."""
    refusals = 1

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal refusals
        if request.path == "/v2/":
            return web.Response(body=b"{}")
        if refusals:
            refusals -= 1
            return web.Response(status=429, headers={"Retry-After": "1"})
        return web.Response(body=BIG)

    told: list[int] = []
    async with Scripted(answer).serving() as peer, Registry(peer.address, patience=IMPATIENT) as registry:
        await registry.pull_blob("app", descriptor(BIG), store, waiting=told.append)
    assert told[0] in (1, 2)
    assert whole(store)


async def test_a_registry_that_wants_us_to_wait_for_an_hour_is_not_waited_for(store: BlobStore) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=200 if request.path == "/v2/" else 429, headers={"Retry-After": "3600"})

    async with Scripted(answer).serving() as peer, Registry(peer.address, patience=Patience()) as registry:
        with pytest.raises(Unavailable):
            await registry.pull_blob("app", descriptor(BIG), store)
    assert len(peer.seen) == 2


async def test_a_manifest_is_asked_for_again_when_the_registry_says_so() -> None:
    image = image_of(b"layer")
    refusals = [("429", "0"), ("503", "Wed, 21 Oct 2015 07:28:00 GMT")]

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/v2/":
            return web.Response(body=b"{}")
        if refusals:
            status, when = refusals.pop()
            return web.Response(status=int(status), headers={"Retry-After": when})
        return web.Response(body=image.manifest)

    async with Scripted(answer).serving() as peer, Registry(peer.address, patience=IMPATIENT) as registry:
        assert (await registry.manifest(named(peer.address))).digest == image.digest
