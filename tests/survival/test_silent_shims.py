"""All daemons are killed beside shims that are stopped: everything else is served at once, and they are made whole."""

from __future__ import annotations

import json
import os
import signal

import pytest

from bulkhead.ctl.engine_client import Answer
from tests.support.engine import Engine
from tests.support.eventually import until
from tests.survival.test_shim_death import shim_of

pytestmark = [pytest.mark.root]
CONTAINERS = 20
SLEEP = {"Image": "busybox", "Cmd": ["sleep", "100000"], "HostConfig": {"NetworkMode": "none"}}
SECONDS = 60.0


def made(engine: Engine) -> list[str]:
    found = [str(engine.api("POST", "/containers/create", SLEEP).json["Id"]) for _ in range(CONTAINERS)]
    for each in found:
        assert engine.api("POST", f"/containers/{each}/start").status == 204
    return found


def running(engine: Engine) -> set[str]:
    return {str(each["Id"]) for each in engine.api("GET", "/containers/json").json}


def in_vain(engine: Engine, container_id: str) -> Answer:
    """What who executes something in it is told."""
    created = engine.api("POST", f"/containers/{container_id}/exec", {"Cmd": ["true"]})
    return engine.api("POST", f"/exec/{created.json['Id']}/start", {"Detach": True})


def words(engine: Engine) -> list[str]:
    """What the manager has said in its present life, in order."""
    lines = engine.daemons.log("manager").read_text().splitlines()
    said = [str(json.loads(line)["event"]) for line in lines if '"event":' in line]
    return said[len(said) - said[::-1].index("starting") :]


def test_daemons_serve_before_silent_shims_answer(fresh_engine: Engine) -> None:
    engine = fresh_engine
    containers = made(engine)
    silent, healthy = containers[:2], containers[2:]
    before = {each: shim_of(engine, each) for each in containers}
    pids = {each: engine.api("GET", f"/containers/{each}/json").json["State"]["Pid"] for each in containers}
    for each in silent:
        os.kill(before[each], signal.SIGSTOP)
    try:
        engine.kill()
        engine.start()
        assert running(engine) == set(containers)
        for each in containers:
            state = engine.api("GET", f"/containers/{each}/json").json["State"]
            assert (state["Status"], state["Pid"]) == ("running", pids[each])
        assert engine.docker_ok("exec", healthy[0], "echo", "here") == "here"
        assert engine.api("DELETE", f"/containers/{healthy[1]}?force=1").status == 204
        refused = in_vain(engine, silent[0])
        assert refused.status == 500, refused.body
        assert "no answer within" in str(refused.json["message"]), refused.body
    finally:
        for each in silent:
            os.kill(before[each], signal.SIGCONT)
    until(lambda: "recovered" in words(engine), seconds=SECONDS)
    assert "serving before every shim has answered" in words(engine)
    assert engine.docker_ok("exec", silent[0], "echo", "whole") == "whole"
    assert running(engine) == set(containers) - {healthy[1]}
    assert {each: shim_of(engine, each) for each in silent} == {each: before[each] for each in silent}
    engine.docker_ok("stop", "-t", "0", silent[1])
    assert engine.docker_ok("inspect", "-f", "{{.State.ExitCode}}", silent[1]) == "137"
