"""Manifests mean one thing to everybody, or are refused (CVE-2021-41190, battery H13, M03)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bulkhead.content import media_types
from bulkhead.content.manifests import (
    MAX_DEPTH,
    MAX_LAYERS,
    Index,
    Manifest,
    decode_object,
    parse_config,
    parse_manifest,
)
from bulkhead.errors import InvalidArgument
from bulkhead.model.digest import Digest

DIGEST = f"sha256:{'a' * 64}"
LAYER = {"mediaType": media_types.OCI_LAYER_GZIP, "digest": DIGEST, "size": 10}
CONFIG = {"mediaType": media_types.OCI_CONFIG, "digest": DIGEST, "size": 5}


def manifest(**extra: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "config": CONFIG, "layers": [LAYER], **extra}).encode()


def index(**extra: Any) -> bytes:
    entry = {"mediaType": media_types.OCI_MANIFEST, "digest": DIGEST, "size": 7}
    return json.dumps({"schemaVersion": 2, "manifests": [entry], **extra}).encode()


def test_a_manifest_says_what_it_points_at() -> None:
    body = manifest(mediaType=media_types.OCI_MANIFEST, annotations={"a": "b"})
    parsed = parse_manifest(body, f"{media_types.OCI_MANIFEST}; charset=utf-8")
    assert isinstance(parsed, Manifest)
    assert (parsed.digest, parsed.size) == (Digest.of(body), len(body))
    assert (str(parsed.config.digest), parsed.config.size) == (DIGEST, 5)
    assert [layer.media_type for layer in parsed.layers] == [media_types.OCI_LAYER_GZIP]
    assert parsed.annotations == {"a": "b"}


def test_an_index_says_its_platforms() -> None:
    entry = {
        "mediaType": media_types.OCI_MANIFEST,
        "digest": DIGEST,
        "size": 7,
        "platform": {"os": "linux", "architecture": "arm", "variant": "v7", "os.version": "1", "features": ["x"]},
    }
    parsed = parse_manifest(index(manifests=[entry]))
    assert isinstance(parsed, Index)
    assert parsed.manifests[0].platform is not None
    assert (parsed.manifests[0].platform.os, parsed.manifests[0].platform.variant) == ("linux", "v7")


@pytest.mark.parametrize(
    ("body", "carried", "kind"),
    [
        (manifest(), media_types.OCI_MANIFEST, media_types.OCI_MANIFEST),
        (manifest(), None, media_types.OCI_MANIFEST),
        (index(), media_types.OCI_INDEX, media_types.OCI_INDEX),
        (index(), None, media_types.OCI_INDEX),
        (manifest(mediaType=media_types.DOCKER_MANIFEST), None, media_types.DOCKER_MANIFEST),
        (index(mediaType=media_types.DOCKER_LIST), media_types.DOCKER_LIST, media_types.DOCKER_LIST),
        (manifest(layers=None), media_types.OCI_MANIFEST, media_types.OCI_MANIFEST),
    ],
)
def test_the_type_is_agreed_between_document_and_header(body: bytes, carried: str | None, kind: str) -> None:
    assert parse_manifest(body, carried).media_type == kind


@pytest.mark.parametrize(
    ("body", "carried"),
    [
        (manifest(mediaType=media_types.OCI_MANIFEST), media_types.OCI_INDEX),
        (manifest(mediaType=media_types.OCI_MANIFEST), media_types.DOCKER_MANIFEST),
        (manifest(), media_types.OCI_INDEX),
        (index(), media_types.OCI_MANIFEST),
        (index(layers=[]), media_types.OCI_INDEX),
        (index(layers=[LAYER]), media_types.OCI_MANIFEST),
        (index(config=CONFIG), None),
        (manifest(manifests=[]), None),
        (manifest(), media_types.DOCKER_MANIFEST),
        (manifest(mediaType=7), None),
        (manifest(mediaType="text/plain"), None),
        (manifest(schemaVersion=1), None),
        (manifest(schemaVersion=2.5), None),
        (manifest(config=None), None),
        (manifest(layers={}), None),
        (manifest(subject={"digest": DIGEST}), None),
        (manifest() + b" x", None),
        (b"\xef\xbb\xbf" + manifest(), None),
        (manifest().decode().encode("utf-16"), None),
        (b'{"schemaVersion":2,"schemaVersion":2,' + manifest()[1:], None),
        (manifest()[:-1] + b',"a":Infinity}', None),
        (manifest()[:-1] + b',"a":' + b"9" * 5000 + b"}", None),
    ],
)
def test_a_document_that_could_be_two_things_is_refused(body: bytes, carried: str | None) -> None:
    with pytest.raises(InvalidArgument, match=r"^cannot use manifest: "):
        parse_manifest(body, carried)


@pytest.mark.parametrize(("depth", "accepted"), [(MAX_DEPTH - 1, True), (MAX_DEPTH, False), (100_000, False)])
def test_nesting_is_bounded_before_it_is_parsed(depth: int, accepted: bool) -> None:
    body = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
    if accepted:
        assert "a" in decode_object(body, 1 << 20, "thing")
    else:
        with pytest.raises(InvalidArgument, match=r"^cannot use thing: it is nested deeper than"):
            decode_object(body, 1 << 20, "thing")


def test_brackets_in_strings_are_not_nesting() -> None:
    text = "[" * 1000 + '\\"' + "{" * 1000
    assert decode_object(json.dumps({"a": text}).encode(), 1 << 20, "thing") == {"a": text}


def test_a_config_gives_what_an_engine_needs() -> None:
    body = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-01-01T00:00:00Z",
            "author": None,
            "config": {"Cmd": ["sh"], "Env": None},
            "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
            "history": [{"created_by": "ADD", "empty_layer": None}, {"empty_layer": True, "comment": "c"}],
        }
    ).encode()
    config = parse_config(body)
    assert (config.os, config.architecture, config.created, config.author) == (
        "linux",
        "amd64",
        "2024-01-01T00:00:00Z",
        "",
    )
    assert config.process == {"Cmd": ["sh"], "Env": None}
    assert [str(digest) for digest in config.diff_ids] == [DIGEST]
    assert [(entry.created_by, entry.empty_layer) for entry in config.history] == [("ADD", False), ("", True)]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"rootfs": None},
        {"rootfs": {"type": "layers"}},
        {"rootfs": {"type": "tree", "diff_ids": []}},
        {"rootfs": {"type": "layers", "diff_ids": ["x"]}},
        {"rootfs": {"type": "layers", "diff_ids": [7]}},
        {"rootfs": {"type": "layers", "diff_ids": [DIGEST] * (MAX_LAYERS + 1)}},
        {"rootfs": {"type": "layers", "diff_ids": []}, "os": 7},
        {"rootfs": {"type": "layers", "diff_ids": []}, "config": []},
        {"rootfs": {"type": "layers", "diff_ids": []}, "history": {}},
        [],
    ],
)
def test_a_config_that_is_none_is_refused(document: Any) -> None:
    with pytest.raises(InvalidArgument):
        parse_config(json.dumps(document).encode())
