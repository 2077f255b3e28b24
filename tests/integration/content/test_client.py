"""Pull and push against our registry, over lines that break and from peers that lie."""

from __future__ import annotations

import asyncio
import gzip
import os
from pathlib import Path

import pytest
from aiohttp import web

from bulkhead.content import media_types
from bulkhead.content.client import Pushed, Registry
from bulkhead.content.manifests import Index, Manifest
from bulkhead.content.store import BlobStore
from bulkhead.errors import (
    DataLoss,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from bulkhead.model.digest import Digest
from tests.integration.content.peers import (
    IMPATIENT,
    Image,
    Line,
    Scripted,
    descriptor,
    image_of,
    named,
    paths,
    pushed,
    real_registry,
)

BIG = os.urandom(3 << 20)


@pytest.fixture
def image() -> Image:
    return image_of(gzip.compress(b"layer"), BIG)


async def test_what_was_pushed_is_pulled(tmp_path: Path, store: BlobStore, image: Image) -> None:
    other = BlobStore(tmp_path / "other")
    other.open()
    async with real_registry(tmp_path / "registry") as host:
        await pushed(host, "team/app", "v1", image, store)
        async with Registry(host, patience=IMPATIENT) as registry:
            name = named(host, "team/app", "v1")
            found = await registry.resolve(name)
            manifest = await registry.manifest(name)
            assert (found.digest, found.size) == (image.digest, len(image.manifest))
            assert (manifest.body, manifest.digest) == (image.manifest, image.digest)
            assert isinstance(manifest.document, Manifest)
            seen: list[int] = []
            for entry in (manifest.document.config, *manifest.document.layers):
                stored = await registry.pull_blob("team/app", entry, other, seen.append)
                assert stored.digest == entry.digest
            assert seen[-1] == len(BIG)
            assert other.read(Digest.of(BIG), len(BIG)) == BIG
            assert await registry.tags("team/app") == ["v1"]
            by_digest = await registry.manifest(name.with_digest(image.digest))
            assert by_digest.body == image.manifest
    other.close()


async def test_a_blob_is_pushed_once_and_mounted_where_it_can_be(tmp_path: Path, store: BlobStore) -> None:
    stored = await store.put(BIG)
    async with real_registry(tmp_path / "registry") as host, Registry(host, patience=IMPATIENT) as registry:
        assert await registry.push_blob("a", stored.digest, stored.path) is Pushed.UPLOADED
        assert await registry.push_blob("a", stored.digest, stored.path) is Pushed.EXISTED
        assert await registry.push_blob("b", stored.digest, stored.path, mount_from="a") is Pushed.MOUNTED
        assert await registry.push_blob("c", stored.digest, stored.path, mount_from="none") is Pushed.UPLOADED
        assert await registry.has_blob("b", stored.digest)


async def test_a_manifest_whose_blobs_are_missing_is_not_pushed(tmp_path: Path, image: Image) -> None:
    async with real_registry(tmp_path / "registry") as host, Registry(host, patience=IMPATIENT) as registry:
        with pytest.raises(NotFound, match="manifest blob unknown"):
            await registry.push_manifest("app", "v1", image.manifest, media_types.OCI_MANIFEST)


@pytest.mark.parametrize("breaks", [[1_000_000], [600_000, 600_000, 600_000], [700_000, 300, 300, 700_000]])
async def test_a_pull_goes_on_where_the_line_broke(
    tmp_path: Path, store: BlobStore, image: Image, breaks: list[int]
) -> None:
    fresh = BlobStore(tmp_path / "fresh")
    fresh.open()
    async with real_registry(tmp_path / "registry") as host:
        await pushed(host, "app", "latest", image, store)
        line = Line(int(host.rpartition(":")[2]), [])
        async with line.open() as address, Registry(address, patience=IMPATIENT) as registry:
            await registry.manifest(named(address))
            line.breaks = list(breaks)
            stored = await registry.pull_blob("app", descriptor(BIG), fresh)
            assert stored.size == len(BIG)
            resumed = [request for request in line.requests if b"Range: bytes=" in request]
            assert len(resumed) >= 1
    fresh.close()


async def test_a_line_that_gives_nothing_is_given_up_and_the_beginning_kept(
    tmp_path: Path, store: BlobStore, image: Image
) -> None:
    fresh = BlobStore(tmp_path / "fresh")
    fresh.open()
    async with real_registry(tmp_path / "registry") as host:
        await pushed(host, "app", "latest", image, store)
        line = Line(int(host.rpartition(":")[2]), [])
        async with line.open() as address, Registry(address, patience=IMPATIENT) as registry:
            await registry.manifest(named(address))
            line.breaks = [1_500_000, *[0] * 20]
            with pytest.raises(Unavailable):
                await registry.pull_blob("app", descriptor(BIG), fresh)
            assert not fresh.has(Digest.of(BIG))
            [(digest, size)] = list(fresh.partials())
            assert digest == Digest.of(BIG)
            assert 1_000_000 < size < 1_500_000
            line.breaks = []
            line.requests.clear()
            await registry.pull_blob("app", descriptor(BIG), fresh)
            assert any(b"Range: bytes=%d-" % size in request for request in line.requests)
            assert list(fresh.partials()) == []
    fresh.close()


async def test_a_cancelled_pull_keeps_its_beginning(tmp_path: Path, store: BlobStore) -> None:
    reached = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/v2/":
            return web.Response(body=b"{}")
        response = web.StreamResponse(headers={"Content-Length": str(len(BIG))})
        await response.prepare(request)
        await response.write(BIG[: 2 << 20])
        await asyncio.Event().wait()
        return response

    def progress(received: int) -> None:
        if received >= 2 << 20:
            reached.set()

    async with Scripted(answer).serving() as peer, Registry(peer.address, patience=IMPATIENT) as registry:
        task = asyncio.create_task(registry.pull_blob("app", descriptor(BIG), store, progress))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert list(store.partials()) == [(Digest.of(BIG), 2 << 20)]


async def test_two_pulls_of_one_blob_fetch_it_once(tmp_path: Path, store: BlobStore, image: Image) -> None:
    fresh = BlobStore(tmp_path / "fresh")
    fresh.open()
    async with real_registry(tmp_path / "registry") as host:
        await pushed(host, "app", "latest", image, store)
        line = Line(int(host.rpartition(":")[2]), [])
        async with line.open() as address, Registry(address, patience=IMPATIENT) as registry:
            results = await asyncio.gather(*(registry.pull_blob("app", descriptor(BIG), fresh) for _ in range(4)))
            assert len({result.path for result in results}) == 1
            assert sum(b"/blobs/" in request for request in line.requests) == 1
    fresh.close()


async def test_a_push_goes_on_where_the_line_broke(tmp_path: Path, store: BlobStore) -> None:
    """The answer to the upload is lost: the client asks how far it came."""
    stored = await store.put(BIG)
    async with real_registry(tmp_path / "registry") as host:
        line = Line(int(host.rpartition(":")[2]), [])
        async with line.open() as address, Registry(address, patience=IMPATIENT) as registry:
            assert not await registry.has_blob("app", stored.digest)
            line.breaks = [10]
            assert await registry.push_blob("app", stored.digest, stored.path) is Pushed.UPLOADED
            assert await registry.has_blob("app", stored.digest)


async def test_a_push_over_a_line_that_breaks_more_often_than_we_are_patient(tmp_path: Path, store: BlobStore) -> None:
    """As long as every try brings something, there is a next one."""
    stored = await store.put(BIG)
    async with real_registry(tmp_path / "registry") as host:
        line = Line(int(host.rpartition(":")[2]), [])
        async with line.open() as address, Registry(address, patience=IMPATIENT) as registry:
            assert not await registry.has_blob("app", stored.digest)
            line.up_breaks = [500_000] * (IMPATIENT.attempts + 1)
            assert await registry.push_blob("app", stored.digest, stored.path) is Pushed.UPLOADED
            assert line.up_breaks == []


async def test_what_a_cut_request_brought_in_the_end_is_not_sent_twice(store: BlobStore) -> None:
    """The registry tells where it is before it has counted what the cut request brought."""
    stored = await store.put(BIG)
    brought, ranges, told = bytearray(), [], [0, 1 << 20]

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        location = {"Location": "/v2/app/blobs/uploads/1"}
        if request.path == "/v2/":
            return web.Response(body=b"{}")
        match request.method:
            case "HEAD":
                return web.Response(status=404)
            case "GET":
                return web.Response(status=204, headers={**location, "Range": f"0-{max(0, told.pop(0) - 1)}"})
            case "PATCH":
                return await patch(request, location)
            case "PUT":
                return web.Response(status=201)
        return web.Response(status=202, headers=location)

    async def patch(request: web.BaseRequest, location: dict[str, str]) -> web.StreamResponse:
        ranges.append(request.headers.get("Content-Range"))
        data = await request.content.read()
        if len(ranges) == 1:
            brought.extend(data[: 1 << 20])
            assert request.transport is not None
            request.transport.abort()
        elif ranges[-1] != f"{len(brought)}-{len(BIG) - 1}":
            return web.Response(status=416)
        else:
            brought.extend(data)
        return web.Response(status=202, headers=location)

    async with Scripted(answer).serving() as peer, Registry(peer.address, patience=IMPATIENT) as registry:
        assert await registry.push_blob("app", stored.digest, stored.path) is Pushed.UPLOADED
    assert ranges == [None, f"0-{len(BIG) - 1}", f"{1 << 20}-{len(BIG) - 1}"]
    assert brought == BIG


Wrong = tuple[str, type[Exception], str]


@pytest.mark.parametrize(
    ("body", "expected", "text"),
    [
        (BIG[:-1] + b"?", DataLoss, "have digest"),
        (BIG[:-1], Unavailable, "EOF"),
        (BIG + b"x", DataLoss, "more than the expected"),
        (b"", Unavailable, "EOF"),
    ],
    ids=["other bytes", "too few", "too many", "none"],
)
async def test_wrong_bytes_never_become_a_blob(
    store: BlobStore, body: bytes, expected: type[Exception], text: str
) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"{}" if request.path == "/v2/" else body)

    async with Scripted(answer).serving() as peer, Registry(peer.address, patience=IMPATIENT) as registry:
        with pytest.raises(expected, match=text):
            await registry.pull_blob("app", descriptor(BIG), store)
    assert not store.has(Digest.of(BIG))
    assert list(store.list()) == []


async def test_content_that_changed_since_the_beginning_is_fetched_anew(store: BlobStore) -> None:
    """The beginning on disk is of other content: the digest tells, and the second try is from zero."""
    async with store.resume(Digest.of(BIG), len(BIG)) as writer:
        await writer.write(os.urandom(1 << 20))

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/v2/":
            return web.Response(body=b"{}")
        start = int(request.headers.get("Range", "bytes=0-")[6:-1])
        status, headers = (206, {"Content-Range": f"bytes {start}-{len(BIG) - 1}/{len(BIG)}"}) if start else (200, {})
        return web.Response(status=status, body=BIG[start:], headers=headers)

    async with Scripted(answer).serving() as peer, Registry(peer.address, patience=IMPATIENT) as registry:
        stored = await registry.pull_blob("app", descriptor(BIG), store)
    assert stored.size == len(BIG)
    assert len(peer.seen) == 3


@pytest.mark.parametrize("status", [200, 416])
async def test_a_registry_without_ranges_is_read_from_the_start(store: BlobStore, status: int) -> None:
    async with store.resume(Digest.of(BIG), len(BIG)) as writer:
        await writer.write(BIG[: 1 << 20])

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/v2/":
            return web.Response(body=b"{}")
        if status == 416 and "Range" in request.headers:
            return web.Response(status=416)
        return web.Response(body=BIG)

    async with Scripted(answer).serving() as peer, Registry(peer.address, patience=IMPATIENT) as registry:
        assert (await registry.pull_blob("app", descriptor(BIG), store)).size == len(BIG)


async def test_busy_registries_are_asked_again(store: BlobStore) -> None:
    answers = [429, 503, 500, 200]

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/v2/":
            return web.Response(body=b"{}")
        status = answers.pop(0)
        return web.Response(status=status, body=b"small", headers={"Retry-After": "0"} if status == 429 else {})

    async with Scripted(answer).serving() as peer:
        patience = type(IMPATIENT)(attempts=5, backoff=0.001, longest_backoff=0.001)
        async with Registry(peer.address, patience=patience) as registry:
            assert (await registry.pull_blob("app", descriptor(b"small"), store)).size == 5
    assert answers == []


async def test_a_full_disk_ends_a_pull_and_keeps_nothing(small_disk: Path, tmp_path: Path, image: Image) -> None:
    source, full = BlobStore(tmp_path / "source"), BlobStore(small_disk / "store")
    source.open()
    full.open()
    async with real_registry(tmp_path / "registry") as host:
        await pushed(host, "app", "latest", image, source)
        async with Registry(host, patience=IMPATIENT) as registry:
            with pytest.raises(ResourceExhausted, match="no space left on device"):
                await registry.pull_blob("app", descriptor(BIG), full)
    assert list(full.partials()) == []
    assert list(full.list()) == []
    full.close()
    source.close()


async def test_a_mirror_is_asked_first_and_what_it_lacks_comes_from_the_next(
    tmp_path: Path, store: BlobStore, image: Image
) -> None:
    other = image_of(b"only upstream")
    fresh = BlobStore(tmp_path / "fresh")
    fresh.open()
    async with real_registry(tmp_path / "one") as mirror, real_registry(tmp_path / "two") as upstream:
        await pushed(mirror, "app", "latest", image, store)
        await pushed(upstream, "app", "latest", other, store)
        await pushed(upstream, "app", "rare", other, store)
        async with Registry(upstream, mirrors=(f"http://{mirror}",), patience=IMPATIENT) as registry:
            assert (await registry.manifest(named(upstream))).digest == image.digest
            assert (await registry.manifest(named(upstream, tag="rare"))).digest == other.digest
            await registry.pull_blob("app", descriptor(b"only upstream"), fresh)
    fresh.close()


async def test_a_mirror_that_is_away_is_passed_over(tmp_path: Path, store: BlobStore, image: Image) -> None:
    async with real_registry(tmp_path / "registry") as host:
        await pushed(host, "app", "latest", image, store)
        async with Registry(host, mirrors=("http://127.0.0.1:1",), patience=IMPATIENT) as registry:
            assert (await registry.manifest(named(host))).digest == image.digest


@pytest.mark.parametrize(
    ("host", "path", "tag", "kind", "text"),
    [
        ("", "nosuch", "latest", NotFound, "manifest for {host}/nosuch:latest not found: manifest unknown: "),
        ("127.0.0.1:1", "x", "y", Unavailable, 'Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: '),
        ("nosuch.invalid", "x", "y", Unavailable, 'Get "https://nosuch.invalid/v2/": dial tcp: lookup nosuch.invalid'),
    ],
    ids=["unknown", "refused", "no such host"],
)
async def test_failures_read_as_dockers(
    tmp_path: Path, host: str, path: str, tag: str, kind: type[Exception], text: str
) -> None:
    async with real_registry(tmp_path / "registry") as real:
        host = host or real
        async with Registry(host, patience=IMPATIENT) as registry:
            with pytest.raises(kind) as caught:
                await registry.manifest(named(host, path, tag))
    assert str(caught.value).startswith(text.format(host=host))


@pytest.mark.parametrize(
    ("status", "body", "challenge", "kind", "text"),
    [
        (
            403,
            b'{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}',
            "",
            NotFound,
            "pull access denied for {name}, repository does not exist or may require 'docker login': "
            "denied: requested access to the resource is denied",
        ),
        (404, b'{"errors":[{"code":"NAME_UNKNOWN","message":"no"}]}', "", NotFound, "repository {name} not found: "),
        (429, b'{"errors":[{"code":"TOOMANYREQUESTS","message":"slow"}]}', "", Unavailable, "toomanyrequests: slow"),
        (500, b"<html>", "", Unavailable, "unexpected status from GET request to http://"),
        (404, b"[" * 100_000, "", NotFound, "unexpected status from GET request to http://"),
        (200, b"not json", "", InvalidArgument, "cannot use manifest: "),
        (200, b"x" * (5 << 20), "", InvalidArgument, "cannot use manifest: it is larger than"),
    ],
    ids=["denied", "name unknown", "rate limit", "html", "nested error", "no json", "huge"],
)
async def test_answers_of_registries_become_our_errors(
    status: int, body: bytes, challenge: str, kind: type[Exception], text: str
) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/v2/":
            return web.Response(body=b"{}")
        return web.Response(status=status, body=body)

    async with Scripted(answer).serving() as peer, Registry(peer.address, patience=IMPATIENT) as registry:
        with pytest.raises(kind) as caught:
            await registry.manifest(named(peer.address))
    assert str(caught.value).startswith(text.format(name=f"{peer.address}/app"))
    assert paths(peer.seen) == ["/v2/", "/v2/app/manifests/latest"]


async def test_a_manifest_of_another_digest_is_not_taken(image: Image) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"{}" if request.path == "/v2/" else image.manifest + b" ")

    async with Scripted(answer).serving() as peer, Registry(peer.address, patience=IMPATIENT) as registry:
        with pytest.raises(DataLoss, match="have digest"):
            await registry.manifest(named(peer.address).with_digest(image.digest))


async def test_an_encoding_that_was_not_asked_for_is_refused(store: BlobStore) -> None:
    """A blob is what its digest names; a gzip layer around it could be a bomb."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/v2/":
            return web.Response(body=b"{}")
        return web.Response(body=gzip.compress(b"small"), headers={"Content-Encoding": "gzip"})

    async with Scripted(answer).serving() as peer, Registry(peer.address, patience=IMPATIENT) as registry:
        with pytest.raises(InvalidArgument, match="content encoding"):
            await registry.pull_blob("app", descriptor(b"small"), store)


async def test_an_index_is_an_index_whatever_its_header_says(tmp_path: Path) -> None:
    body = b'{"schemaVersion":2,"mediaType":"%s","manifests":[]}' % media_types.OCI_INDEX.encode()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/v2/":
            return web.Response(body=b"{}")
        kind = media_types.OCI_INDEX if "good" in request.path else media_types.OCI_MANIFEST
        return web.Response(body=body, content_type=kind)

    async with Scripted(answer).serving() as peer, Registry(peer.address, patience=IMPATIENT) as registry:
        good = await registry.manifest(named(peer.address, "good"))
        assert isinstance(good.document, Index)
        with pytest.raises(InvalidArgument, match="was carried as"):
            await registry.manifest(named(peer.address, "bad"))


async def test_plain_http_needs_a_host_that_is_marked(tmp_path: Path) -> None:
    async with Registry("registry.invalid", mirrors=("http://mirror.invalid",), patience=IMPATIENT) as registry:
        with pytest.raises(Unavailable, match=r"^Get \"https://registry.invalid/v2/\""):
            await registry.manifest(named("registry.invalid"))
