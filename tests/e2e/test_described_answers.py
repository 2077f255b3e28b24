"""Every JSON answer that the Engine API's own description knows, of the whole engine, against that description."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.support.api_description import SPEC, specification, validate
from tests.support.engine import Engine

pytestmark = pytest.mark.skipif(not SPEC.exists(), reason=f"{SPEC} is not on this machine")

# Parts that this engine does not have.
_ELSEWHERE = ("/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs", "/plugins")
# Streams of bytes, and a word.
_NO_JSON = {("GET", path) for path in ("/containers/{id}/logs", "/images/{name}/get", "/images/get", "/_ping")}


class _Walk:
    """Asks, judges, and notes what was asked."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.walked: set[tuple[str, str]] = set()

    def __call__(self, method: str, described: str, body: Any = None, query: str = "", **names: str) -> Any:
        answer = self.engine.api(method, described.format(**names) + query, body)
        assert answer.status in (200, 201), answer.body
        validate(answer.json, method, described, answer.status)
        self.walked.add((method, described))
        return answer.json


def _described() -> set[tuple[str, str]]:
    """What answers JSON when all is well."""
    return {
        (method.upper(), path)
        for path, operations in specification()["paths"].items()
        for method, operation in operations.items()
        if method in ("get", "post", "put", "delete") and not path.startswith(_ELSEWHERE)
        for status, answer in operation["responses"].items()
        if str(status).startswith("2") and "schema" in answer
    } - _NO_JSON


@pytest.mark.timeout(300)
def test_all_of_them(engine: Engine) -> None:
    engine.pulled("busybox")
    walk = _Walk(engine)
    _containers(walk)
    _networks_and_volumes(walk)
    _images(walk)
    _system(walk)
    engine.docker_ok("kill", "told")
    walk("POST", "/containers/{id}/wait", id="told")
    for kind in ("containers", "networks", "volumes", "images", "build"):
        walk("POST", f"/{kind}/prune")
    _events(engine, walk)
    assert walk.walked == _described()


def _containers(walk: _Walk) -> None:
    config = {"Image": "busybox", "Cmd": ["sleep", "1000"], "ExposedPorts": {"80/tcp": {}}, "Labels": {"a": "b"}}
    host = {"Tmpfs": {"/run": "size=1m"}, "Mounts": [{"Type": "volume", "Source": "told", "Target": "/v"}]}
    walk("POST", "/containers/create", {**config, "HostConfig": host}, "?name=told")
    walk("GET", "/containers/{id}/json", id="told")
    walk.engine.docker_ok("start", "told")
    walk("GET", "/containers/json", query="?size=1")
    walk("GET", "/containers/{id}/json", query="?size=1", id="told")
    for query in ("?stream=0", "?stream=0&one-shot=1"):
        walk("GET", "/containers/{id}/stats", query=query, id="told")
    walk("GET", "/containers/{id}/top", id="told")
    walk("GET", "/containers/{id}/changes", id="told")
    walk("POST", "/containers/{id}/update", {"CpuShares": 512}, id="told")
    made = walk("POST", "/containers/{id}/exec", {"Cmd": ["true"]}, id="told")
    walk("GET", "/exec/{id}/json", id=made["Id"])


def _networks_and_volumes(walk: _Walk) -> None:
    walk("POST", "/networks/create", {"Name": "told", "Labels": {"a": "b"}})
    walk.engine.docker_ok("network", "connect", "told", "told")
    walk("GET", "/networks/{id}", id="told")
    walk("GET", "/networks")
    walk("GET", "/containers/{id}/json", id="told")
    walk("POST", "/volumes/create", {"Name": "other"})
    walk("GET", "/volumes/{name}", name="told")
    walk("GET", "/volumes")


def _images(walk: _Walk) -> None:
    walk("POST", "/commit", {}, "?container=told&repo=told&tag=1")
    # Without manifests: the description requires an UnpackedSize that it does not describe, and Docker sends none.
    walk("GET", "/images/json", query="?shared-size=1")
    walk("GET", "/images/{name}/json", name="told:1")
    walk("GET", "/images/{name}/history", name="told:1")
    walk("GET", "/images/search", query="?term=busybox")
    walk("GET", "/distribution/{name}/json", name="busybox")
    walk("DELETE", "/images/{name}", name="told:1")


def _system(walk: _Walk) -> None:
    login = {"username": "a", "password": "b", "serveraddress": walk.engine.instance.registry}
    walk("POST", "/auth", login)
    for path in ("/info", "/version", "/system/df"):
        walk("GET", path)


def _events(engine: Engine, walk: _Walk) -> None:
    answer = engine.api("GET", f"/events?since=1&until={time.time():.6f}")
    told = [json.loads(line) for line in answer.body.splitlines()]
    assert {each["Type"] for each in told} >= {"container", "image", "network", "volume"}
    for each in told:
        validate(each, "GET", "/events")
    walk.walked.add(("GET", "/events"))
