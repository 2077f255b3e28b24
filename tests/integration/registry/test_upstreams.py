"""Pull-through: one fetch for many readers, stale tags, no credentials to strangers, a bounded cache."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from bulkhead.content.retries import Patience
from bulkhead.errors import InvalidArgument
from bulkhead.model.digest import Digest
from bulkhead.registry.upstreams import assembly
from bulkhead.registry.upstreams.tables import CacheTable, UpstreamTable, check
from tests.integration.content.peers import Line, Scripted
from tests.integration.registry.accounts import access, basic
from tests.integration.registry.wire import LAYER, UNKNOWN, Peer, manifest_of, open_peer
from tests.support.eventually import eventually

BIG = os.urandom(3 << 20)
IMPATIENT = Patience(attempts=2, backoff=0.001, longest_backoff=0.002, connect=5.0, idle=5.0)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "PATIENCE", IMPATIENT)


@asynccontextmanager
async def through(root: Path, address: str, cache: CacheTable | None = None, **told: Any) -> AsyncIterator[Peer]:
    """A registry with one upstream, called `far`."""
    settings = {"name": "far", "url": f"http://{address}", **told}
    async with open_peer(root, upstreams=[UpstreamTable(**settings)], cache=cache or CacheTable()) as peer:
        yield peer


def authority(peer: Peer) -> str:
    return peer.base.removeprefix("http://")


@pytest.fixture
async def far(tmp_path: Path) -> AsyncIterator[Peer]:
    """The upstream: a registry of ours."""
    async with open_peer(tmp_path / "far") as far:
        yield far


@pytest.mark.parametrize(
    ("prefix", "query", "headers"),
    [("far/", "", {}), ("", "?ns=far", {}), ("", "", {"OCI-Namespace": "far"}), ("far/", "?ns=elsewhere", {})],
)
async def test_an_image_comes_through_and_stays(
    far: Peer, tmp_path: Path, prefix: str, query: str, headers: dict[str, str]
) -> None:
    digest = await far.image("team/app", "latest")
    line = Line(target=int(far.base.rpartition(":")[2]), breaks=[])
    async with line.open() as address, through(tmp_path / "near", address, tag_seconds=3600) as near:
        for _ in range(2):
            for reference in ("latest", digest):
                path = f"/v2/{prefix}team/app/manifests/{reference}{query}"
                reply = await near.ask("GET", path, headers=headers)
                assert (reply.status, reply.body) == (200, manifest_of())
                assert reply.headers["Docker-Content-Digest"] == str(digest)
                head = await near.ask("HEAD", path, headers=headers)
                assert (head.status, head.headers["Content-Length"]) == (200, str(len(manifest_of())))
            blob = f"/v2/{prefix}team/app/blobs/{Digest.of(LAYER)}{query}"
            assert (await near.ask("GET", blob, headers=headers)).body == LAYER
            part = await near.ask("GET", blob, headers={**headers, "Range": "bytes=4-8"})
            assert (part.status, part.body) == (206, LAYER[4:9])
        asked = b"".join(line.requests)
        assert asked.count(b"GET /v2/team/app/manifests/") == 1
        assert asked.count(b"GET /v2/team/app/blobs/") == 1


async def test_what_is_here_is_served_beside_it(far: Peer, tmp_path: Path) -> None:
    async with through(tmp_path / "near", authority(far)) as near:
        await near.image("own/app", "latest")
        assert (await near.ask("GET", "/v2/own/app/manifests/latest")).status == 200
        assert (await near.ask("GET", "/v2/own/app/manifests/latest?ns=far")).status == 404
        assert (await near.ask("GET", "/v2/far/own/app/manifests/latest")).status == 404
        assert (await near.ask("GET", "/v2/far/none/tags/list")).code == "NAME_UNKNOWN"
        assert (await near.ask("GET", f"/v2/far/none/blobs/{UNKNOWN}")).code == "BLOB_UNKNOWN"


async def test_tags_and_referrers_pass_through(far: Peer, tmp_path: Path) -> None:
    subject = await far.image("app", "b")
    await far.image("app", "a")
    about = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": str(subject), "size": 1}
    await far.image("app", "sbom", subject=about, artifactType="text/sbom")
    async with through(tmp_path / "near", authority(far)) as near:
        assert (await near.ask("GET", "/v2/far/app/tags/list")).json == {"name": "far/app", "tags": ["a", "b", "sbom"]}
        page = await near.ask("GET", "/v2/far/app/tags/list?n=1&last=a")
        assert (page.json["tags"], "last=b" in page.headers["Link"]) == (["b"], True)
        found = await near.ask("GET", f"/v2/far/app/referrers/{subject}")
        assert [entry["artifactType"] for entry in found.json["manifests"]] == ["text/sbom"]
        none = await near.ask("GET", f"/v2/far/app/referrers/{subject}?artifactType=x/y")
        assert (none.json["manifests"], none.headers["OCI-Filters-Applied"]) == ([], "artifactType")


async def test_what_is_an_upstreams_is_not_changed(far: Peer, tmp_path: Path) -> None:
    async with through(tmp_path / "near", authority(far)) as near:
        for method, path in (
            ("PUT", "/v2/far/app/manifests/latest"),
            ("DELETE", "/v2/far/app/manifests/latest"),
            ("POST", "/v2/far/app/blobs/uploads/"),
            ("PATCH", "/v2/far/app/blobs/uploads/x"),
            ("GET", "/v2/far/app/blobs/uploads/x"),
            ("DELETE", f"/v2/far/app/blobs/{UNKNOWN}"),
            ("POST", "/v2/app/blobs/uploads/?ns=far"),
        ):
            reply = await near.ask(method, path)
            assert (reply.status, reply.code) == (405, "UNSUPPORTED"), (method, path)


async def test_a_moved_tag_is_seen_when_its_time_is_over(far: Peer, tmp_path: Path) -> None:
    first = await far.image("app", "latest")
    for seconds, seen in ((3600.0, first), (0.0, Digest.of(manifest_of(annotations={"n": "2"})))):
        async with through(tmp_path / "near", authority(far), tag_seconds=seconds) as near:
            reply = await near.ask("GET", "/v2/far/app/manifests/latest")
            assert (await far.image("app", "latest", annotations={"n": "2"})) is not None
            assert reply.headers["Docker-Content-Digest"] == str(seen)


async def test_a_tag_is_served_as_it_was_while_the_upstream_is_away(far: Peer, tmp_path: Path) -> None:
    """And not for ever, and not when the upstream says that it is gone."""
    digest = await far.image("app", "latest")
    failing: list[int] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if failing:
            return web.Response(status=failing[0], headers={"Retry-After": "0"})
        reply = await far.ask(request.method, request.path_qs)
        headers = {
            name: reply.headers[name]
            for name in ("Content-Type", "Docker-Content-Digest", "Content-Length")
            if name in reply.headers
        }
        return web.Response(status=reply.status, body=reply.body or None, headers=headers)

    async with Scripted(answer).serving() as upstream:
        async with through(tmp_path / "near", upstream.address, tag_seconds=0) as near:
            path = "/v2/far/app/manifests/latest"
            assert (await near.ask("GET", path)).status == 200
            for status in (503, 429, 500):
                failing[:] = [status]
                with capture_logs() as lines:
                    reply = await near.ask("GET", path)
                assert (reply.status, reply.headers["Docker-Content-Digest"]) == (200, str(digest))
                assert any(line["event"] == "stale tag served" for line in lines)
            unknown = await near.ask("GET", "/v2/far/other/manifests/latest")
            assert (unknown.status, int(unknown.headers["Retry-After"]) > 0) == (503, True)
            failing[:] = [403]
            assert (await near.ask("GET", path)).status == 403
            failing[:] = [404]
            assert (await near.ask("GET", path)).status == 404
            failing[:] = [503]
            assert (await near.ask("GET", path)).status == 503
        failing.clear()
        async with through(tmp_path / "near", upstream.address, tag_seconds=0, stale_seconds=0) as near:
            assert (await near.ask("GET", path)).status == 200
            failing[:] = [503]
            assert (await near.ask("GET", path)).status == 503


@asynccontextmanager
async def slow(body: bytes, gate: asyncio.Event, *, wrong: bytes = b"", status: int = 200) -> AsyncIterator[Scripted]:
    """An upstream that sends half of a blob, waits for `gate`, and sends the rest, or something `wrong`."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/v2/":
            return web.Response()
        if request.method == "HEAD":
            return web.Response(headers={"Content-Length": str(len(body))})
        if status != 200:
            return web.Response(status=status)
        response = web.StreamResponse(headers={"Content-Length": str(len(body))})
        await response.prepare(request)
        half = len(body) // 2
        await response.write(body[:half])
        await gate.wait()
        await response.write(wrong or body[half:])
        await response.write_eof()
        return response

    async with Scripted(answer).serving() as upstream:
        yield upstream


async def test_many_readers_share_one_fetch_and_read_while_it_grows(tmp_path: Path) -> None:
    gate, digest = asyncio.Event(), Digest.of(BIG)
    async with slow(BIG, gate) as upstream, through(tmp_path / "near", upstream.address) as near:
        url = f"{near.base}/v2/far/app/blobs/{digest}"
        async with near.session.get(url) as first, near.session.get(url) as second:
            # The second half is not there yet: they read the file while it grows.
            begin = await first.content.readexactly(1 << 20)
            assert await second.content.readexactly(1 << 20) == begin == BIG[: 1 << 20]
            gate.set()
            assert begin + await first.read() == BIG
            assert begin + await second.read() == BIG
        assert (await near.ask("GET", f"/v2/far/app/blobs/{digest}")).body == BIG
        assert [method for method, path, _ in upstream.seen if "blobs" in path].count("GET") == 1


async def test_a_fetch_goes_on_when_its_reader_leaves(tmp_path: Path) -> None:
    gate, digest = asyncio.Event(), Digest.of(BIG)
    async with slow(BIG, gate) as upstream, through(tmp_path / "near", upstream.address) as near:
        url = f"{near.base}/v2/far/app/blobs/{digest}"
        async with near.session.get(url) as leaving:
            await leaving.content.readexactly(1000)
            leaving.close()
        gate.set()
        assert (await near.ask("GET", f"/v2/far/app/blobs/{digest}")).body == BIG
        assert [method for method, path, _ in upstream.seen if "blobs" in path].count("GET") == 1


async def test_wrong_bytes_are_not_kept_and_not_ended_well(tmp_path: Path) -> None:
    gate, digest = asyncio.Event(), Digest.of(BIG)
    half = len(BIG) // 2
    async with slow(BIG, gate, wrong=bytes(half)) as upstream, through(tmp_path / "near", upstream.address) as near:
        gate.set()
        with pytest.raises(aiohttp.ClientError):
            await near.ask("GET", f"/v2/far/app/blobs/{digest}")
        assert not any((tmp_path / "near/cache/blobs").rglob(digest.encoded))


async def test_an_upstream_that_fails_is_said_before_the_first_byte(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with slow(BIG, gate, status=500) as upstream, through(tmp_path / "near", upstream.address) as near:
        reply = await near.ask("GET", f"/v2/far/app/blobs/{Digest.of(BIG)}")
        assert (reply.status, reply.code) == (503, "UNAVAILABLE")


async def test_a_broken_fetch_is_resumed_also_after_a_restart(far: Peer, tmp_path: Path) -> None:
    digest = await far.blob("app", BIG)
    line = Line(target=int(far.base.rpartition(":")[2]), breaks=[2_000_000, *[10] * 50])
    async with line.open() as address:
        async with through(tmp_path / "near", address) as near:
            with pytest.raises(aiohttp.ClientError):
                await near.ask("GET", f"/v2/far/app/blobs/{digest}")
        line.breaks.clear()
        line.requests.clear()
        async with through(tmp_path / "near", address) as near:
            assert (await near.ask("GET", f"/v2/far/app/blobs/{digest}")).body == BIG
        assert b"Range: bytes=" in b"".join(line.requests)


async def test_a_blob_of_another_repository_is_not_shown(far: Peer, tmp_path: Path) -> None:
    """Battery H16: that the cache has it does not make it part of every repository."""
    digest = await far.blob("private", BIG)
    async with through(tmp_path / "near", authority(far)) as near:
        assert (await near.ask("GET", f"/v2/far/private/blobs/{digest}")).status == 200
        assert (await near.ask("GET", f"/v2/far/public/blobs/{digest}")).status == 404
        assert (await near.ask("GET", f"/v2/public/blobs/{digest}")).status == 404


async def test_rights_are_for_the_whole_name(far: Peer, tmp_path: Path) -> None:
    await far.image("team/app", "latest")
    table = access(tmp_path)
    (tmp_path / "rights.toml").write_text(
        '[[rules]]\nrepositories = ["far/team/*"]\nusers = ["alice"]\nactions = ["pull"]\n'
        '[[rules]]\nrepositories = ["team/*"]\nusers = ["bob"]\nactions = ["pull"]\n'
    )
    upstreams = [UpstreamTable(name="far", url=far.base)]
    async with open_peer(tmp_path / "near", access=table, upstreams=upstreams) as near:
        for user, path, status in (
            ("alice", "/v2/far/team/app/manifests/latest", 200),
            ("alice", "/v2/team/app/manifests/latest?ns=far", 200),
            ("bob", "/v2/far/team/app/manifests/latest", 403),
            ("bob", "/v2/team/app/manifests/latest?ns=far", 403),
            ("bob", "/v2/team/app/manifests/latest", 404),
        ):
            assert (await near.ask("GET", path, headers=basic(user))).status == status, (user, path)


async def test_our_password_goes_to_the_upstream_and_nobody_else(tmp_path: Path) -> None:
    """Battery H12: neither where it redirects to, nor to a realm elsewhere; the client's goes nowhere."""
    (tmp_path / "password").write_text("upstream-secret\n")
    secret = "Basic " + base64.b64encode(b"me:upstream-secret").decode()

    async def elsewhere(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=LAYER)

    async with Scripted(elsewhere).serving() as stranger:
        realm = ['Basic realm="x"']

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            if request.headers.get("Authorization") != secret:
                return web.Response(status=401, headers={"WWW-Authenticate": realm[0]})
            if request.method == "HEAD":
                return web.Response(headers={"Content-Length": str(len(LAYER))})
            target = {} if request.path == "/v2/" else {"Location": f"http://{stranger.address}/blob"}
            return web.Response(status=307 if target else 200, headers=target)

        async with Scripted(answer).serving() as upstream:
            told: dict[str, Any] = {"username": "me", "password_file": str(tmp_path / "password")}
            path, client = f"/v2/far/app/blobs/{Digest.of(LAYER)}", basic("client", "client-secret")
            async with through(tmp_path / "near", upstream.address, **told) as near:
                assert (await near.ask("GET", path, headers=client)).body == LAYER
            assert secret in upstream.authorizations()
            realm[0] = f'Bearer realm="http://{stranger.address}/token",service="x"'
            async with through(tmp_path / "other", upstream.address, **told) as near:
                reply = await near.ask("GET", path, headers=client)
            assert (reply.status, reply.code) == (403, "DENIED")
            assert stranger.authorizations() == []
            assert set(upstream.authorizations()) == {secret}
            assert "upstream-secret" not in reply.body.decode()


async def test_a_mirror_falls_back_to_its_upstream(far: Peer, tmp_path: Path) -> None:
    """dockerd asks its `registry-mirrors` by the bare name."""
    await far.image("library/busybox", "latest")
    async with through(tmp_path / "near", authority(far), fallback=True) as near:
        assert (await near.ask("GET", "/v2/library/busybox/manifests/latest")).body == manifest_of()
        assert (await near.ask("GET", f"/v2/library/busybox/blobs/{Digest.of(LAYER)}")).body == LAYER
        assert (await near.ask("GET", "/v2/library/none/manifests/latest")).status == 404
        await near.image("library/busybox", "latest", annotations={"who": "us"})
        assert (await near.ask("GET", "/v2/library/busybox/manifests/latest")).json["annotations"] == {"who": "us"}


async def test_the_cache_is_bounded_and_keeps_what_was_asked_for(far: Peer, tmp_path: Path) -> None:
    blobs = [os.urandom(1000) for _ in range(5)]
    digests = [await far.blob("app", blob) for blob in blobs]
    async with through(tmp_path / "near", authority(far)) as near:
        for digest in digests:
            assert (await near.ask("GET", f"/v2/far/app/blobs/{digest}")).status == 200
    _age_uses(tmp_path / "near/cache/index.sqlite", digests)
    cache = CacheTable(high_bytes=3500, low_bytes=2500)
    async with through(tmp_path / "near", authority(far), cache) as near:
        directory = tmp_path / "near/cache/blobs/sha256"
        wanted = {digest.encoded for digest in digests[3:]}
        await eventually(lambda: {path.name for path in directory.iterdir()} == wanted)
        assert (await near.ask("GET", f"/v2/far/app/blobs/{digests[0]}")).body == blobs[0]


def _age_uses(path: Path, digests: list[Digest]) -> None:
    """Make it long ago that anything was asked for, the first first."""
    now = time.time()
    with sqlite3.connect(path) as database:
        for number, digest in enumerate(digests):
            database.execute("UPDATE uses SET used = ? WHERE digest = ?", (now - 10_000 + number, str(digest)))
    database.close()


async def test_a_damaged_index_is_begun_anew(far: Peer, tmp_path: Path) -> None:
    await far.image("app", "latest")
    for damage in (b"", b"this is no database" * 100):
        async with through(tmp_path / "near", authority(far)) as near:
            assert (await near.ask("GET", "/v2/far/app/manifests/latest")).status == 200
        (tmp_path / "near/cache/index.sqlite").write_bytes(damage)
    async with through(tmp_path / "near", authority(far)) as near:
        assert (await near.ask("GET", "/v2/far/app/manifests/latest")).status == 200


async def test_a_manifest_that_rotted_is_fetched_again(far: Peer, tmp_path: Path) -> None:
    digest = await far.image("app", "latest")
    async with through(tmp_path / "near", authority(far)) as near:
        assert (await near.ask("GET", "/v2/far/app/manifests/latest")).status == 200
        (tmp_path / "near/cache/blobs/sha256" / digest.encoded).write_bytes(b"rot")
        assert (await near.ask("GET", "/v2/far/app/manifests/latest")).body == manifest_of()


@pytest.mark.parametrize(
    "table",
    [
        UpstreamTable(name="a/b"),
        UpstreamTable(name="UPPER"),
        UpstreamTable(name="x", url="ftp://x"),
        UpstreamTable(name="x", url="https://me:secret@x"),
        UpstreamTable(name="x", url="https://x/path"),
        UpstreamTable(name="x", username="me"),
        UpstreamTable(name="x", tag_seconds=-1),
    ],
)
def test_upstreams_that_make_no_sense_are_refused(table: UpstreamTable) -> None:
    with pytest.raises(InvalidArgument, match="upstreams") as refused:
        check([table], CacheTable())
    assert "secret" not in json.dumps(str(refused.value))
