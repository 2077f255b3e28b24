"""Digests and paths that an archive or a client names, joined to no path before they are known to be one (C25)."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from bulkhead.ctl.seed.images import Tree, digest_of
from tests.security.engine.conftest import Attack, canary, post

__all__ = ["canary"]

CONFIG = json.dumps(
    {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": []}}
).encode()
BAD = (
    "sha256:../../../../../../etc/shadow",
    "sha256:..",
    "sha256:" + "A" * 64,
    "sha256:" + "g" * 64,
    "sha256:" + "a" * 63,
    "sha256:" + "a" * 65,
    "md5:" + "a" * 32,
    "sha256:" + "/" * 64,
    "sha256",
    "",
)
LINKED = "sha256:" + "b" * 64
PLACES = ("../../../../../etc/shadow", "/etc/shadow", "link", "a/../../../etc/shadow", ".", "")


def layout(descriptor: Mapping[str, Any]) -> bytes:
    """An OCI layout whose index names `descriptor`, with an honest config and manifest beside it."""
    manifest = honest_manifest(digest_of(CONFIG))
    tree = Tree()
    for data in (CONFIG, manifest):
        tree.file(f"blobs/sha256/{digest_of(data).removeprefix('sha256:')}", data)
    if descriptor["digest"] == LINKED:
        tree.symlink("blobs/sha256/" + "b" * 64, "/etc/shadow")
    tree.file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    tree.file("index.json", json.dumps({"schemaVersion": 2, "manifests": [descriptor]}).encode())
    return tree.tar()


def honest_manifest(config: str) -> bytes:
    kind = "application/vnd.oci.image.config.v1+json"
    described = {"mediaType": kind, "digest": config, "size": len(CONFIG)}
    media = "application/vnd.oci.image.manifest.v1+json"
    return json.dumps({"schemaVersion": 2, "mediaType": media, "config": described, "layers": []}).encode()


def named(digest: str, size: int) -> dict[str, Any]:
    name = {"io.containerd.image.name": f"docker.io/library/c25-{secrets.token_hex(4)}:latest"}
    return {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest,
        "size": size,
        "annotations": name,
    }


def load(attack: Attack, archive: bytes) -> tuple[int, str]:
    answer = post(attack.engine, "/images/load?quiet=1", archive)
    return answer.status, answer.body.decode(errors="replace")


def refused(status: int, text: str) -> bool:
    """By a status, or within the stream that has begun; never by a failure of the engine."""
    assert "Traceback" not in text and "root:" not in text
    return status in (400, 404) or (status == 200 and '"error"' in text)


@pytest.mark.parametrize("digest", [*BAD, LINKED])
def test_a_layout_cannot_name_a_path(attack: Attack, canary: Path, digest: str) -> None:
    assert refused(*load(attack, layout(named(digest, 10))))


def test_an_honest_layout_is_taken(attack: Attack) -> None:
    """The control."""
    manifest = honest_manifest(digest_of(CONFIG))
    status, text = load(attack, layout(named(digest_of(manifest), len(manifest))))
    assert (status, '"error"' in text) == (200, False), text


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("field", ["Config", "Layers"])
def test_a_docker_archive_cannot_name_a_path(attack: Attack, canary: Path, field: str, place: str) -> None:
    entry_ = {"Config": "config.json", "RepoTags": [f"c25-{secrets.token_hex(4)}:latest"], "Layers": ["layer.tar"]}
    entry_[field] = place if field == "Config" else [place]
    tree = Tree()
    tree.file("config.json", CONFIG).file("layer.tar", Tree().tar())
    if place == "link":
        tree.symlink("link", "/etc/shadow")
    tree.file("manifest.json", json.dumps([entry_]).encode())
    assert refused(*load(attack, tree.tar()))


def test_an_honest_docker_archive_is_taken(attack: Attack) -> None:
    """The control."""
    tree = Tree().file("config.json", CONFIG)
    named_ = {"Config": "config.json", "RepoTags": [f"c25-{secrets.token_hex(4)}:latest"], "Layers": []}
    status, text = load(attack, tree.file("manifest.json", json.dumps([named_]).encode()).tar())
    assert (status, '"error"' in text) == (200, False), text


@pytest.mark.parametrize("digest", BAD[:7])
def test_a_client_cannot_either(attack: Attack, canary: Path, digest: str) -> None:
    api = attack.engine.api
    assert api("GET", f"/images/{quote(digest, safe='')}/json").status in (400, 404)
    assert api("DELETE", f"/images/{quote('busybox@' + digest, safe='')}").status in (400, 404)
    answer = api("POST", f"/images/create?fromImage=busybox&tag={quote(digest, safe='')}")
    assert refused(answer.status, answer.body.decode())
