"""Clients that know images of several platforms: what they ask of ours, of which one platform is here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.engine import Engine

HERE, OTHER = '{"os":"linux","architecture":"amd64"}', '{"os":"linux","architecture":"arm64"}'


@pytest.fixture(autouse=True)
def busybox(engine: Engine) -> None:
    engine.pulled("busybox")


def test_manifests_are_told_when_asked_for(engine: Engine) -> None:
    (plain,) = [each for each in engine.api("GET", "/images/json").json if "busybox:latest" in each["RepoTags"]]
    assert "Manifests" not in plain and plain["SharedSize"] == -1
    answer = engine.api("GET", "/images/json?manifests=1&shared-size=1").json
    (told,) = [each for each in answer if "busybox:latest" in each["RepoTags"]]
    (manifest,) = told["Manifests"]
    assert manifest["ID"] == told["Descriptor"]["digest"] and manifest["Available"] and manifest["Kind"] == "image"
    assert manifest["ImageData"]["Platform"] == json.loads(HERE)
    assert manifest["Size"]["Total"] == manifest["Size"]["Content"] + told["Size"] and told["SharedSize"] >= 0
    assert engine.api("GET", "/images/busybox/json?manifests=1").json["Manifests"] == told["Manifests"]
    assert "Manifests" not in engine.api("GET", "/v1.46/images/json?manifests=1").json[0]


def test_the_size_shared_with_another_image(engine: Engine) -> None:
    engine.docker_ok("create", "--name", "source", "busybox")
    engine.docker_ok("commit", "-c", "ENV A=1", "source", "shares:1")
    sizes = {
        tag: (each["SharedSize"], each["Size"])
        for each in engine.api("GET", "/images/json?shared-size=1").json
        for tag in each["RepoTags"]
    }
    assert sizes["shares:1"][0] == sizes["busybox:latest"][0] == sizes["busybox:latest"][1] > 0
    engine.docker_ok("rm", "source")
    engine.docker_ok("rmi", "shares:1")


def test_another_platform_is_not_here(engine: Engine, tmp_path: Path) -> None:
    for call in ("json", "history", "get"):
        assert engine.api("GET", f"/images/busybox/{call}?platform={HERE}").status == 200
        refused = engine.api("GET", f"/images/busybox/{call}?platform={OTHER}")
        assert refused.status == 404 and b"wanted linux/arm64, actual: linux/amd64" in refused.body
    assert engine.api("GET", "/images/busybox/json?platform=nonsense").status == 400
    assert engine.api("GET", f"/images/busybox/json?manifests=1&platform={HERE}").status == 400
    assert engine.api("DELETE", f"/images/busybox?platforms={OTHER}").status == 404
    archive = tmp_path / "busybox.tar"
    engine.docker_ok("save", "--platform", "linux/amd64", "-o", str(archive), "busybox")
    assert "Loaded image: busybox:latest" in engine.docker_ok("load", "--platform", "linux/amd64", "-i", str(archive))
    refused_load = engine.docker("load", "--platform", "linux/arm64", "-i", str(archive))
    assert refused_load.returncode == 1 and "no matching manifest for linux/arm64" in refused_load.stderr
