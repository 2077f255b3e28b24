"""Lists of tags and repositories, page by page, and the rest of the surface."""

from __future__ import annotations

import pytest
from yarl import URL

from tests.integration.registry.wire import Peer, manifest_of


async def test_the_version_probe_of_every_client(peer: Peer) -> None:
    for path in ("/v2/", "/v2"):
        reply = await peer.ask("GET", path)
        assert (reply.status, reply.json) == (200, {})
        assert reply.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert (await peer.ask("HEAD", "/v2/")).status == 200


async def test_health_is_json(peer: Peer) -> None:
    reply = await peer.ask("GET", "/healthz")
    assert (reply.status, reply.json) == (200, {"status": "ok"})


async def test_tags_are_in_ascii_order_a_page_at_a_time(peer: Peer) -> None:
    await peer.image("app", "first")
    tags = ["B", "a", "b.1", "b-1", "b_1", "z", "10", "9"]
    for tag in tags:
        await peer.manifest("app", tag, manifest_of())
    expected = sorted([*tags, "first"])
    assert (await peer.ask("GET", "/v2/app/tags/list")).json == {"name": "app", "tags": expected}
    found, path = [], "/v2/app/tags/list?n=2"
    while path:
        reply = await peer.ask("GET", path)
        assert len(reply.json["tags"]) <= 2
        found += reply.json["tags"]
        link = reply.headers.get("Link", "")
        assert not link or link.endswith('>; rel="next"')
        path = link[1:].partition(">")[0]
    assert found == expected


@pytest.mark.parametrize(
    ("query", "tags", "more"),
    [
        ("?n=0", [], False),
        ("?last=b", ["c"], False),
        ("?last=bb", ["c"], False),
        ("?n=1&last=a", ["b"], True),
        ("?n=100", ["a", "b", "c"], False),
        ("?last=zzz", [], False),
    ],
)
async def test_a_page_begins_after_last(peer: Peer, query: str, tags: list[str], more: bool) -> None:
    for tag in ("a", "b", "c"):
        await peer.image("app", tag)
    reply = await peer.ask("GET", f"/v2/app/tags/list{query}")
    assert (reply.json["tags"], "Link" in reply.headers) == (tags, more)


@pytest.mark.parametrize("number", ["-1", "x", "1.5", "", "99999999999999999999"])
async def test_a_page_size_is_a_number(peer: Peer, number: str) -> None:
    await peer.image("app", "a")
    for path in ("/v2/app/tags/list", "/v2/_catalog"):
        reply = await peer.ask("GET", f"{path}?n={number}")
        assert (reply.status, reply.code) == (400, "PAGINATION_NUMBER_INVALID")


async def test_a_repository_without_tags_still_lists(peer: Peer) -> None:
    digest = await peer.image("app", "a")
    await peer.ask("DELETE", "/v2/app/manifests/a")
    assert (await peer.ask("GET", "/v2/app/tags/list")).json == {"name": "app", "tags": []}
    assert (await peer.ask("GET", f"/v2/app/manifests/{digest}")).status == 200


async def test_a_repository_that_does_not_exist_is_unknown(peer: Peer) -> None:
    reply = await peer.ask("GET", "/v2/nosuch/tags/list")
    assert (reply.status, reply.code) == (404, "NAME_UNKNOWN")


async def test_the_catalogue_in_pages(peer: Peer) -> None:
    names = ["a", "a-b", "a/b", "a/b/c", "b", "z.z"]
    for name in names:
        await peer.image(name, "v1")
    await peer.blob("only-blobs", b"no manifest: not a repository yet")
    assert (await peer.ask("GET", "/v2/_catalog")).json == {"repositories": sorted(names)}
    first = await peer.ask("GET", "/v2/_catalog?n=4")
    path = first.headers["Link"][1:].partition(">")[0]
    assert URL(path).query["n"] == "4"
    second = await peer.ask("GET", path)
    assert first.json["repositories"] + second.json["repositories"] == sorted(names)
    assert (await peer.ask("GET", "/v2/_catalog?n=1001")).code == "PAGINATION_NUMBER_INVALID"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/", 405),
        ("PATCH", "/v2/app/manifests/v1", 405),
        ("DELETE", "/v2/app/tags/list", 405),
        ("PUT", "/v2/app/blobs/uploads/", 405),
        ("GET", "/", 404),
        ("GET", "/v1/_ping", 404),
        ("GET", "/v2/app", 404),
        ("GET", "/v2/app/none/x", 404),
        ("GET", "/metrics/../v3", 404),
    ],
)
async def test_other_methods_and_paths(peer: Peer, method: str, path: str, status: int) -> None:
    reply = await peer.ask(method, path)
    assert reply.status == status
    assert reply.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
