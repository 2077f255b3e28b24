"""Manifests: stored to the byte, refused unless they are sound, found by tag, digest and referrer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from bulkhead.content import media_types
from bulkhead.content.manifests import MAX_MANIFEST
from bulkhead.model.digest import Digest
from tests.integration.registry.wire import CONFIG, LAYER, UNKNOWN, Peer, index_of, manifest_of, wire

EMPTY = {"mediaType": media_types.OCI_EMPTY, "digest": str(Digest.of(b"{}")), "size": 2}


async def test_a_manifest_is_served_to_the_byte(peer: Peer) -> None:
    await peer.image("app", "v1")
    odd = manifest_of() + b"\n  \n"
    assert (await peer.manifest("app", "v1", odd)).status == 201
    digest = Digest.of(odd)
    for reference in ("v1", str(digest)):
        for method, body in (("GET", odd), ("HEAD", b"")):
            reply = await peer.ask(method, f"/v2/app/manifests/{reference}")
            assert (reply.status, reply.body) == (200, body)
            assert reply.headers["Content-Length"] == str(len(odd))
            assert reply.headers["Content-Type"] == media_types.OCI_MANIFEST
            assert reply.headers["Docker-Content-Digest"] == str(digest)
            assert reply.headers["ETag"] == f'"{digest}"'
            same = await peer.ask(method, f"/v2/app/manifests/{reference}", headers={"If-None-Match": f'"{digest}"'})
            assert (same.status, same.body) == (304, b"")


async def test_pushing_answers_where_it_is(peer: Peer) -> None:
    await peer.image("app", "v1")
    reply = await peer.manifest("app", "v2", manifest_of())
    digest = Digest.of(manifest_of())
    assert reply.headers["Docker-Content-Digest"] == str(digest)
    assert (await peer.ask("GET", reply.headers["Location"])).body == manifest_of()


async def test_a_tag_moves_and_the_old_image_stays(peer: Peer) -> None:
    first = await peer.image("app", "latest")
    second = await peer.image("app", "latest", annotations={"a": "b"})
    assert (await peer.ask("GET", "/v2/app/manifests/latest")).headers["Docker-Content-Digest"] == str(second)
    assert (await peer.ask("GET", f"/v2/app/manifests/{first}")).status == 200


async def test_docker_schema_2_and_lists_are_kept_as_they_are(peer: Peer) -> None:
    await peer.image("app", "v1")
    manifest = manifest_of(mediaType=media_types.DOCKER_MANIFEST)
    assert (await peer.manifest("app", "v2", manifest, media_types.DOCKER_MANIFEST)).status == 201
    entries = [wire(media_types.DOCKER_MANIFEST, manifest) | {"platform": {"os": "linux", "architecture": "amd64"}}]
    listing = json.dumps({"schemaVersion": 2, "mediaType": media_types.DOCKER_LIST, "manifests": entries}).encode()
    assert (await peer.manifest("app", "multi", listing, media_types.DOCKER_LIST)).status == 201
    reply = await peer.ask("GET", "/v2/app/manifests/multi", headers={"Accept": media_types.DOCKER_MANIFEST})
    assert (reply.body, reply.headers["Content-Type"]) == (listing, media_types.DOCKER_LIST)


async def test_several_tags_at_once(peer: Peer) -> None:
    await peer.image("app", "v1")
    body = manifest_of(annotations={"x": "y"})
    reply = await peer.manifest("app", f"{Digest.of(body)}?tag=a&tag=b", body)
    assert (reply.status, reply.headers.getall("OCI-Tag")) == (201, ["a", "b"])
    for tag in ("a", "b"):
        assert (await peer.ask("GET", f"/v2/app/manifests/{tag}")).body == body


async def test_sha512_names_a_manifest_too(peer: Peer) -> None:
    await peer.image("app", "v1")
    digest = Digest.of(manifest_of(), "sha512")
    assert (await peer.manifest("app", str(digest), manifest_of())).status == 201
    assert (await peer.ask("GET", f"/v2/app/manifests/{digest}")).body == manifest_of()


def changed(**extra: Any) -> Callable[[], bytes]:
    return lambda: manifest_of(**extra)


def raw(body: bytes) -> Callable[[], bytes]:
    return lambda: body


LAYERS = [wire(media_types.OCI_LAYER, LAYER)]
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "no JSON": (raw(b"manifest"), media_types.OCI_MANIFEST),
    "empty": (raw(b""), media_types.OCI_MANIFEST),
    "a list": (raw(b"[]"), media_types.OCI_MANIFEST),
    "a number": (raw(b"7"), media_types.OCI_MANIFEST),
    "not UTF-8": (raw(manifest_of() + b"\xff"), media_types.OCI_MANIFEST),
    "something after it": (raw(manifest_of() + b"{}"), media_types.OCI_MANIFEST),
    "duplicate keys": (raw(manifest_of()[:-1] + b',"schemaVersion":2}'), media_types.OCI_MANIFEST),
    "duplicate keys inside": (
        raw(manifest_of().replace(b'"size":', b'"size":1,"size":', 1)),
        media_types.OCI_MANIFEST,
    ),
    "NaN": (raw(manifest_of()[:-1] + b',"x":NaN}'), media_types.OCI_MANIFEST),
    "deep": (raw(b'{"a":' * 1000 + b"1" + b"}" * 1000), media_types.OCI_MANIFEST),
    "very deep": (raw(b"[" * 1_000_000), media_types.OCI_MANIFEST),
    "schema version 1": (changed(schemaVersion=1), media_types.OCI_MANIFEST),
    "schema version as text": (changed(schemaVersion="2"), media_types.OCI_MANIFEST),
    "schema version 1e999": (
        raw(manifest_of().replace(b'"schemaVersion": 2', b'"schemaVersion": 1e999')),
        media_types.OCI_MANIFEST,
    ),
    "schema 1 by type": (changed(), "application/vnd.docker.distribution.manifest.v1+prettyjws"),
    "unknown type": (changed(mediaType="application/x-thing"), "application/x-thing"),
    "header says index": (changed(), media_types.OCI_INDEX),
    "header says docker": (changed(), media_types.DOCKER_MANIFEST),
    "body says index": (changed(mediaType=media_types.OCI_INDEX), media_types.OCI_INDEX),
    "both manifest and index": (changed(manifests=[]), media_types.OCI_MANIFEST),
    "both, called index": (
        lambda: index_of(layers=LAYERS),
        media_types.OCI_INDEX,
    ),
    "index with a config": (lambda: index_of(config=wire(media_types.OCI_CONFIG, CONFIG)), media_types.OCI_INDEX),
    "no config": (changed(config=None), media_types.OCI_MANIFEST),
    "size -1": (changed(layers=[LAYERS[0] | {"size": -1}]), media_types.OCI_MANIFEST),
    "size as text": (changed(layers=[LAYERS[0] | {"size": "20"}]), media_types.OCI_MANIFEST),
    "size beyond belief": (changed(layers=[LAYERS[0] | {"size": 1 << 62}]), media_types.OCI_MANIFEST),
    "digest malformed": (changed(layers=[LAYERS[0] | {"digest": "sha256:x"}]), media_types.OCI_MANIFEST),
    "digest climbs": (changed(layers=[LAYERS[0] | {"digest": "../../etc/passwd"}]), media_types.OCI_MANIFEST),
    "no media type": (changed(layers=[{"digest": str(Digest.of(LAYER)), "size": 20}]), media_types.OCI_MANIFEST),
    "media type malformed": (changed(layers=[LAYERS[0] | {"mediaType": "a b"}]), media_types.OCI_MANIFEST),
    "annotations of numbers": (changed(annotations={"a": 1}), media_types.OCI_MANIFEST),
    "annotations as a list": (changed(annotations=[]), media_types.OCI_MANIFEST),
    "empty config without artifact type": (changed(config=EMPTY), media_types.OCI_MANIFEST),
    "lone surrogate": (
        raw(manifest_of(annotations={"a": "b"}).replace(b'"b"', b'"\\ud800"')),
        media_types.OCI_MANIFEST,
    ),
}


@pytest.mark.parametrize(("make", "kind"), REFUSED.values(), ids=REFUSED)
async def test_an_unsound_manifest_is_refused(peer: Peer, make: Callable[[], bytes], kind: str) -> None:
    await peer.blob("app", CONFIG)
    await peer.blob("app", LAYER)
    await peer.blob("app", b"{}")
    reply = await peer.manifest("app", "bad", make(), kind)
    assert (reply.status, reply.code) == (400, "MANIFEST_INVALID")
    assert (await peer.ask("GET", "/v2/app/manifests/bad")).status == 404


async def test_a_manifest_may_be_large_but_not_larger(peer: Peer) -> None:
    await peer.image("app", "v1")
    padding = MAX_MANIFEST - len(manifest_of(annotations={"a": ""}))
    assert (await peer.manifest("app", "v2", manifest_of(annotations={"a": "x" * padding}))).status == 201
    refused = await peer.manifest("app", "v3", manifest_of(annotations={"a": "x" * (padding + 1)}))
    assert (refused.status, refused.code) == (413, "MANIFEST_INVALID")


@pytest.mark.parametrize(
    "body",
    [
        manifest_of(layers=[wire(media_types.OCI_LAYER, b"never pushed")]),
        manifest_of(config=wire(media_types.OCI_CONFIG, b"never pushed")),
        index_of(b"never pushed"),
    ],
    ids=["layer", "config", "child of an index"],
)
async def test_a_manifest_needs_what_it_names(peer: Peer, body: bytes) -> None:
    await peer.image("app", "v1")
    kind = media_types.OCI_INDEX if b"manifests" in body else media_types.OCI_MANIFEST
    reply = await peer.manifest("app", "v2", body, kind)
    assert (reply.status, reply.code) == (404, "MANIFEST_BLOB_UNKNOWN")
    assert reply.json["errors"][0]["detail"] == [{"digest": str(Digest.of(b"never pushed"))}]


async def test_another_repositorys_blobs_do_not_count(peer: Peer) -> None:
    await peer.image("app", "v1")
    reply = await peer.manifest("other", "v1", manifest_of())
    assert (reply.status, reply.code) == (404, "MANIFEST_BLOB_UNKNOWN")


async def test_foreign_layers_need_not_be_here(peer: Peer) -> None:
    await peer.image("app", "v1")
    foreign = wire(media_types.DOCKER_FOREIGN_GZIP, b"elsewhere") | {"urls": ["https://example.com/layer"]}
    reply = await peer.manifest("app", "v2", manifest_of(layers=[foreign]))
    assert (reply.status, reply.headers["Warning"].startswith('299 - "non-distributable')) == (201, True)
    without_url = wire(media_types.DOCKER_FOREIGN_GZIP, b"elsewhere")
    assert (await peer.manifest("app", "v3", manifest_of(layers=[without_url]))).status == 404


async def test_a_digest_must_be_that_of_the_bytes(peer: Peer) -> None:
    await peer.image("app", "v1")
    reply = await peer.manifest("app", str(UNKNOWN), manifest_of())
    assert (reply.status, reply.code) == (400, "DIGEST_INVALID")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v2/app/manifests/none", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/app/manifests/{UNKNOWN}", 404, "MANIFEST_UNKNOWN"),
        ("/v2/nosuch/manifests/v1", 404, "MANIFEST_UNKNOWN"),
        ("/v2/app/manifests/sha256:x", 400, "DIGEST_INVALID"),
        ("/v2/app/manifests/.hidden", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/app/manifests/{'t' * 129}", 404, "MANIFEST_UNKNOWN"),
        ("/v2/APP/manifests/v1", 400, "NAME_INVALID"),
    ],
)
async def test_what_is_not_there_is_told_by_its_code(peer: Peer, path: str, status: int, code: str) -> None:
    await peer.image("app", "v1")
    reply = await peer.ask("GET", path)
    assert (reply.status, reply.code) == (status, code)
    assert (await peer.ask("HEAD", path)).status == status


async def test_a_manifest_is_not_pushed_under_what_is_no_tag(peer: Peer) -> None:
    await peer.image("app", "v1")
    for name in (".hidden", "t" * 129):
        reply = await peer.manifest("app", name, manifest_of())
        assert (reply.status, reply.code) == (400, "TAG_INVALID")


async def test_deleting_a_tag_leaves_the_image(peer: Peer) -> None:
    digest = await peer.image("app", "v1")
    await peer.image("app", "v2")
    assert (await peer.ask("DELETE", "/v2/app/manifests/v1")).status == 202
    assert (await peer.ask("GET", "/v2/app/manifests/v1")).status == 404
    assert (await peer.ask("GET", f"/v2/app/manifests/{digest}")).status == 200
    assert (await peer.ask("DELETE", "/v2/app/manifests/v1")).code == "MANIFEST_UNKNOWN"


async def test_deleting_an_image_takes_its_tags(peer: Peer) -> None:
    digest = await peer.image("app", "v1")
    await peer.image("app", "v2")
    other = await peer.image("app", "v3", annotations={"a": "b"})
    assert (await peer.ask("DELETE", f"/v2/app/manifests/{digest}")).status == 202
    for reference in ("v1", "v2", str(digest)):
        assert (await peer.ask("GET", f"/v2/app/manifests/{reference}")).status == 404
    assert (await peer.ask("GET", f"/v2/app/manifests/{other}")).status == 200
    assert (await peer.ask("GET", "/v2/app/tags/list")).json == {"name": "app", "tags": ["v3"]}
    assert (await peer.ask("DELETE", f"/v2/app/manifests/{digest}")).code == "MANIFEST_UNKNOWN"


async def test_an_answer_is_never_older_than_the_last_push(peer: Peer) -> None:
    """The cache of manifests: readers in full swing while the tag moves."""
    await peer.image("app", "v")
    stop = asyncio.Event()

    async def read() -> None:
        while not stop.is_set():
            await peer.ask("GET", "/v2/app/manifests/v")

    readers = [asyncio.create_task(read()) for _ in range(4)]
    for number in range(15):
        digest = await peer.image("app", "v", annotations={"n": str(number)})
        assert (await peer.ask("GET", "/v2/app/manifests/v")).headers["Docker-Content-Digest"] == str(digest)
    await peer.ask("DELETE", "/v2/app/manifests/v")
    assert (await peer.ask("GET", "/v2/app/manifests/v")).status == 404
    stop.set()
    await asyncio.gather(*readers)


async def test_referrers_are_found_before_and_after_their_subject(peer: Peer) -> None:
    subject = await peer.image("app", "v1")
    await peer.blob("app", b"{}")
    kinds = ["application/vnd.example.sbom", "application/vnd.example.signature"]
    made = []
    for kind in kinds:
        body = manifest_of(
            subject=wire(media_types.OCI_MANIFEST, manifest_of()),
            artifactType=kind,
            config=EMPTY,
            annotations={"kind": kind},
        )
        reply = await peer.manifest("app", str(Digest.of(body)), body)
        assert (reply.status, reply.headers["OCI-Subject"]) == (201, str(subject))
        made.append((str(Digest.of(body)), kind))
    listing = await peer.ask("GET", f"/v2/app/referrers/{subject}")
    assert listing.headers["Content-Type"] == media_types.OCI_INDEX
    entries = listing.json["manifests"]
    assert sorted((entry["digest"], entry["artifactType"]) for entry in entries) == sorted(made)
    assert all(entry["annotations"] == {"kind": entry["artifactType"]} for entry in entries)
    filtered = await peer.ask("GET", f"/v2/app/referrers/{subject}?artifactType={kinds[0]}")
    assert filtered.headers["OCI-Filters-Applied"] == "artifactType"
    assert [entry["artifactType"] for entry in filtered.json["manifests"]] == [kinds[0]]
    assert (await peer.ask("DELETE", f"/v2/app/manifests/{made[0][0]}")).status == 202
    left = await peer.ask("GET", f"/v2/app/referrers/{subject}")
    assert [entry["digest"] for entry in left.json["manifests"]] == [made[1][0]]


async def test_a_subject_need_not_exist(peer: Peer) -> None:
    await peer.image("app", "v1")
    ghost = {"mediaType": media_types.OCI_MANIFEST, "digest": str(UNKNOWN), "size": 7}
    body = manifest_of(subject=ghost)
    assert (await peer.manifest("app", "ref", body)).status == 201
    listing = (await peer.ask("GET", f"/v2/app/referrers/{UNKNOWN}")).json["manifests"]
    assert [(entry["digest"], entry["artifactType"]) for entry in listing] == [
        (str(Digest.of(body)), media_types.OCI_CONFIG)
    ]


async def test_nobody_refers_is_an_empty_list(peer: Peer) -> None:
    reply = await peer.ask("GET", f"/v2/nosuch/referrers/{UNKNOWN}")
    assert (reply.status, reply.json["manifests"]) == (200, [])
    assert (await peer.ask("GET", "/v2/app/referrers/x")).code == "DIGEST_INVALID"


async def test_referrers_from_before_the_endpoint_are_listed_too(peer: Peer) -> None:
    subject = await peer.image("app", "v1")
    artifact = manifest_of(artifactType="application/vnd.old")
    await peer.manifest("app", str(Digest.of(artifact)), artifact)
    entries = [wire(media_types.OCI_MANIFEST, artifact) | {"artifactType": "application/vnd.old"}]
    index = json.dumps({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": entries}).encode()
    assert (await peer.manifest("app", f"sha256-{subject.encoded}", index, media_types.OCI_INDEX)).status == 201
    listing = (await peer.ask("GET", f"/v2/app/referrers/{subject}")).json["manifests"]
    assert [entry["digest"] for entry in listing] == [str(Digest.of(artifact))]
