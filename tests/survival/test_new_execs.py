"""Execs that a shim has created by itself: they are there for whoever asks, whichever daemon died meanwhile."""

from __future__ import annotations

import json
import os
import select
import signal
from typing import Any

import pytest

from tests.support.engine import Engine
from tests.support.eventually import until

pytestmark = [pytest.mark.root]
SLEEP = {"Image": "busybox", "Cmd": ["sleep", "100000"], "HostConfig": {"NetworkMode": "none"}}
FIRST = 3


def container(engine: Engine) -> str:
    """One whose shim creates execs."""
    made = str(engine.api("POST", "/containers/create", SLEEP).json["Id"])
    assert engine.api("POST", f"/containers/{made}/start").status == 204
    for _ in range(FIRST):
        engine.docker_ok("exec", made, "true")
    until(lambda: asked(engine, made) == 0)
    return made


def asked(engine: Engine, container_id: str) -> int:
    """How often the manager was called to create one."""

    def calls() -> int:
        counts = engine.api("GET", "/debug/ops").json["Counts"]["manager"]
        return int(counts.get("rpc manager Create", 0))

    before = calls()
    create(engine, container_id)
    return calls() - before


def create(engine: Engine, container_id: str, *command: str) -> str:
    body = {"Cmd": list(command) or ["true"], "AttachStdout": True, "AttachStderr": True}
    return str(engine.api("POST", f"/containers/{container_id}/exec", body).json["Id"])


def inspected(engine: Engine, exec_id: str) -> Any:
    answer = engine.api("GET", f"/exec/{exec_id}/json")
    assert answer.status == 200, answer.body
    return answer.json


def actions(engine: Engine, exec_id: str) -> list[str]:
    """What the events of it say, as far as its second is over."""
    lines = engine.docker_ok("events", "--since", "0", "--until", "0s", "--format", "{{json .}}").splitlines()
    events = [json.loads(line) for line in lines]
    return [each["Action"].split(":")[0] for each in events if each["Actor"]["Attributes"].get("execID") == exec_id]


def kill_shim(engine: Engine, container_id: str) -> None:
    """It is dead when this returns."""
    record = json.loads((engine.instance.container_data(container_id) / "shim.json").read_text())
    shim = os.pidfd_open(record["pid"])
    signal.pidfd_send_signal(shim, signal.SIGKILL)
    select.select([shim], [], [])
    os.close(shim)


def test_it_is_seen_as_soon_as_it_is_created(fresh_engine: Engine) -> None:
    made = container(fresh_engine)
    for _ in range(20):
        one = create(fresh_engine, made)
        assert one in fresh_engine.api("GET", f"/containers/{made}/json").json["ExecIDs"]
        assert inspected(fresh_engine, create(fresh_engine, made))["Running"] is False


@pytest.mark.parametrize("victims", [("manager",), ("api",), ("manager", "api"), ()])
def test_a_death_between_its_creation_and_its_start_changes_nothing(
    fresh_engine: Engine, victims: tuple[str, ...]
) -> None:
    engine = fresh_engine
    made = container(engine)
    one = create(engine, made, "sh", "-c", "echo alive; exit 5")
    if victims:
        engine.kill(*victims)
        engine.start(*victims)
    started = engine.api("POST", f"/exec/{one}/start", {"Detach": False})
    assert b"alive" in started.body
    until(lambda: inspected(engine, one)["ExitCode"] is not None)
    assert inspected(engine, one)["ExitCode"] == 5
    again = engine.api("POST", f"/exec/{one}/start", {"Detach": False})
    assert (again.status, again.json["message"]) == (409, f"exec command {one} has already run")

    until(lambda: actions(engine, one) == ["exec_create", "exec_start", "exec_die"])


def test_one_whose_shim_died_at_once_can_be_started(fresh_engine: Engine) -> None:
    """Nobody was told of it but who created it, and its container lives."""
    engine = fresh_engine
    made = container(engine)
    one = create(engine, made, "sh", "-c", "echo alive; exit 5")
    kill_shim(engine, made)
    assert b"alive" in engine.api("POST", f"/exec/{one}/start", {"Detach": False}).body
    until(lambda: inspected(engine, one)["ExitCode"] == 5)
    until(lambda: actions(engine, one) == ["exec_create", "exec_start", "exec_die"])


@pytest.mark.parametrize("command", ["exit 7", "sleep 0.1; exit 7"])
def test_a_code_is_not_lost_with_its_shim_though_the_manager_slept(fresh_engine: Engine, command: str) -> None:
    """Whoever has seen an exec's end has seen it for the manager, who may have had no turn since it was created."""
    engine = fresh_engine
    made = container(engine)
    one = create(engine, made, "sh", "-c", command)
    manager = engine.pid("manager")
    assert manager is not None
    os.kill(manager, signal.SIGSTOP)
    try:
        assert engine.api("POST", f"/exec/{one}/start", {"Detach": False}).status == 200
        kill_shim(engine, made)
    finally:
        os.kill(manager, signal.SIGCONT)
    until(lambda: not inspected(engine, one)["Running"])
    assert inspected(engine, one)["ExitCode"] == 7
    until(lambda: actions(engine, one) == ["exec_create", "exec_start", "exec_die"])


def test_a_code_is_not_lost_when_the_manager_dies_with_the_shim(fresh_engine: Engine) -> None:
    """Neither has written down what the other knew; what is left is a file beside the shim's sockets."""
    engine = fresh_engine
    made = container(engine)
    manager = engine.pid("manager")
    assert manager is not None
    os.kill(manager, signal.SIGSTOP)
    try:
        one = create(engine, made, "sh", "-c", "exit 7")
        assert engine.api("POST", f"/exec/{one}/start", {"Detach": False}).status == 200
        kill_shim(engine, made)
    finally:
        engine.kill("manager")
    engine.start("manager")
    until(lambda: inspected(engine, one)["ExitCode"] == 7)
    until(lambda: actions(engine, one) == ["exec_create", "exec_start", "exec_die"])


def test_a_removed_container_takes_along_how_its_execs_went(fresh_engine: Engine) -> None:
    engine = fresh_engine
    made = container(engine)
    one = create(engine, made)
    assert engine.api("POST", f"/exec/{one}/start", {"Detach": False}).status == 200
    assert inspected(engine, one)["ExitCode"] == 0
    assert engine.api("DELETE", f"/containers/{made}?force=1").status == 204
    assert engine.api("GET", f"/exec/{one}/json").status == 404
    assert not engine.instance.container_run(made).exists()


def test_a_container_that_ends_takes_its_execs_along(fresh_engine: Engine) -> None:
    engine = fresh_engine
    made = container(engine)
    one = create(engine, made)
    assert engine.api("POST", f"/containers/{made}/kill").status == 204
    assert engine.api("POST", f"/containers/{made}/wait").status == 200
    assert engine.api("POST", f"/exec/{one}/start", {"Detach": False}).status == 409
    assert engine.api("POST", f"/containers/{made}/exec", {"Cmd": ["true"]}).status == 409
