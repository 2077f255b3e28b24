"""Every JSON answer against the Engine API's own published description.

The description is no part of the project: where it is absent the tests are skipped.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.api.conftest import Fake
from tests.support.api_description import SPEC, validate
from tests.support.fake_engine import fake_engine

pytest.importorskip("yaml")
pytest.importorskip("jsonschema")
pytestmark = pytest.mark.skipif(not SPEC.exists(), reason=f"{SPEC} is not on this machine")


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[Fake]:
    async with fake_engine(tmp_path) as manager:
        yield Fake(manager)


HOST: dict[str, Any] = {
    "Binds": ["/tmp:/t:ro"],
    "PortBindings": {"80/tcp": [{"HostPort": "8080"}]},
    "Memory": 64 << 20,
    "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2},
    "Tmpfs": {"/run": "size=1m"},
    "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}],
    "Mounts": [{"Type": "volume", "Source": "vol", "Target": "/v"}],
}
CONFIG: dict[str, Any] = {
    "Labels": {"a": "b"},
    "Env": ["A=b"],
    "ExposedPorts": {"80/tcp": {}},
    "Healthcheck": {"Test": ["CMD", "true"], "Interval": 10**9},
    "HostConfig": HOST,
}


async def test_the_validator_sees_wrong_answers() -> None:
    """The exam can be failed."""
    with pytest.raises(AssertionError, match="Id"):
        validate({"Id": 5, "Warnings": []}, "POST", "/containers/create", 201)
    with pytest.raises(AssertionError, match="Warnings"):
        validate({"Id": "x"}, "POST", "/containers/create", 201)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/info", "/info"),
        ("/version", "/version"),
        ("/system/df", "/system/df"),
        ("/containers/json?all=1&size=1", "/containers/json"),
        ("/containers/run/json?size=1", "/containers/{id}/json"),
        ("/containers/new/json", "/containers/{id}/json"),
        ("/containers/end/json", "/containers/{id}/json"),
        ("/containers/run/top", "/containers/{id}/top"),
        ("/images/json", "/images/json"),
        ("/images/busybox/json", "/images/{name}/json"),
        ("/images/busybox/history", "/images/{name}/history"),
        ("/networks", "/networks"),
        ("/networks/bridge", "/networks/{id}"),
        ("/volumes", "/volumes"),
        ("/plugins", "/plugins"),
    ],
)
async def test_answers_of_get(fake: Fake, target: str, path: str) -> None:
    await fake.run("sleep", "100", name="run", **CONFIG)
    await fake.create("true", name="new")
    await (await fake.run("true", name="end")).process.exited.wait()
    reply = await fake.call("GET", target)
    assert reply.status == 200
    validate(reply.json, "GET", path)


async def test_info_tells_what_the_manager_was_told(fake: Fake) -> None:
    told = (await fake.call("GET", "/info")).json
    assert (told["LoggingDriver"], told["HttpProxy"]) == ("local", "http://proxy.test:3128")


async def test_answers_of_changes(fake: Fake) -> None:
    created = await fake.call("POST", "/containers/create", {"Image": "busybox", "Cmd": ["sleep", "100"], **CONFIG})
    validate(created.json, "POST", "/containers/create", 201)
    ref = created.json["Id"]
    await fake.call("POST", f"/containers/{ref}/start")
    made = await fake.call("POST", f"/containers/{ref}/exec", {"Cmd": ["true"]})
    validate(made.json, "POST", "/containers/{id}/exec", 201)
    shown = await fake.call("GET", f"/exec/{made.json['Id']}/json")
    validate(shown.json, "GET", "/exec/{id}/json")
    await fake.call("POST", f"/containers/{ref}/kill")
    validate((await fake.call("POST", f"/containers/{ref}/wait")).json, "POST", "/containers/{id}/wait")
    validate((await fake.call("POST", "/containers/prune")).json, "POST", "/containers/prune")
    validate((await fake.call("DELETE", "/images/hello-world")).json, "DELETE", "/images/{name}")
    validate((await fake.call("POST", "/images/prune")).json, "POST", "/images/prune")
    validate((await fake.call("POST", "/networks/prune")).json, "POST", "/networks/prune")
    events = await fake.call("GET", f"/events?since=1&until={time.time():.6f}")
    assert events.body
    for line in events.body.splitlines():
        validate(json.loads(line), "GET", "/events")


@pytest.mark.parametrize(
    "target", ["/containers/nosuch/json", "/nosuch", "/v1.99/info", "/swarm", "/containers/x/stats"]
)
async def test_errors_have_one_shape(fake: Fake, target: str) -> None:
    reply = await fake.call("GET", target)
    assert reply.status >= 400
    validate(reply.json, "GET", "/info", 500)
    assert list(reply.json) == ["message"]
