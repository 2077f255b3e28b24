"""What the engine tells of images that are in a registry and not here."""

from __future__ import annotations

import json

from tests.support.engine import Engine


def test_search_and_distribution(engine: Engine) -> None:
    registry = engine.instance.registry
    engine.pulled("busybox")
    engine.docker_ok("tag", "busybox", f"{registry}/team/app:1")
    engine.docker_ok("push", f"{registry}/team/app:1")
    assert "busybox" in engine.docker_ok("search", "--format", "{{.Name}}", "busy").split()
    found = engine.docker_ok("search", "--format", "{{.Name}}", f"{registry}/team").split()
    assert f"{registry}/team/app" in found and "busybox" not in found
    here = json.loads(engine.docker_ok("inspect", "busybox"))[0]
    for name in ("busybox", f"{registry}/team/app:1"):
        told = engine.api("GET", f"/distribution/{name}/json").json
        assert told["Descriptor"]["digest"] in here["RepoDigests"][0]
        assert told["Platforms"] == [{"architecture": "amd64", "os": "linux"}]
    assert engine.api("GET", f"/distribution/{registry}/team/nosuch/json").status == 404
    assert engine.api("GET", f"/distribution/{'0' * 64}/json").status == 400
