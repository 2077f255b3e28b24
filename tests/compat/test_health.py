"""Health checks as the docker CLI shows them; the same on dockerd."""

from __future__ import annotations

import json
import time
from typing import Any

import docker
import pytest

from tests.compat.conftest import Target
from tests.support.eventually import until

FOREVER = ("busybox", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done")


@pytest.fixture(autouse=True)
def real(target: Target) -> None:
    if target.kind == "fake":
        pytest.skip("the fake manager probes nothing")


def health(target: Target, name: str) -> Any:
    return json.loads(target.ok("inspect", "-f", "{{json .State.Health}}", name))


def status(target: Target, name: str) -> str:
    found = health(target, name)
    return found["Status"] if found else ""


def becomes(target: Target, name: str, wanted: str) -> None:
    until(lambda: status(target, name) == wanted)


def events(target: Target, name: str) -> list[str]:
    about = f"container={target.ok('inspect', '-f', '{{.Id}}', name)}"
    told = target.ok(
        "events", "--since", "1", "--until", f"{time.time():.9f}", "--filter", about, "--format", "{{json .}}"
    )
    return [json.loads(line)["status"] for line in told.splitlines()]


def test_healthy_then_unhealthy_then_healthy_again(target: Target) -> None:
    probe = "while [ ! -e /go ]; do sleep 0.05; done; cat /ok"
    flags = ["--health-cmd", probe, "--health-interval", "300ms", "--health-retries", "2"]
    target.ok("run", "-d", "--name", "hc", *flags, *FOREVER)
    assert status(target, "hc") == "starting"
    assert "(health: starting)" in target.ok("ps", "--format", "{{.Status}}")
    target.ok("exec", "hc", "touch", "/go")
    becomes(target, "hc", "unhealthy")
    assert "(unhealthy)" in target.ok("ps", "--format", "{{.Status}}", "--filter", "health=unhealthy")
    last = health(target, "hc")["Log"][-1]
    assert last["ExitCode"] == 1
    assert "can't open '/ok'" in last["Output"]
    target.ok("exec", "hc", "sh", "-c", "echo fine >/ok")
    becomes(target, "hc", "healthy")
    until(lambda: len(health(target, "hc")["Log"]) == 5)
    assert health(target, "hc")["FailingStreak"] == 0
    assert health(target, "hc")["Log"][-1]["Output"] == "fine\n"
    seen = events(target, "hc")
    assert [each for each in seen if each.startswith("health_status")] == [
        "health_status: unhealthy",
        "health_status: healthy",
    ]
    assert f"exec_create: /bin/sh -c {probe}" in seen
    assert f"exec_start: /bin/sh -c {probe}" in seen
    assert "exec_die" in seen


def test_a_restart_begins_anew_and_a_stopped_container_is_unhealthy(target: Target) -> None:
    flags = ["--health-cmd", "true", "--health-interval", "200ms"]
    target.ok("run", "-d", "--name", "hc", *flags, *FOREVER)
    becomes(target, "hc", "healthy")
    target.ok("stop", "hc")
    assert status(target, "hc") == "unhealthy"
    target.ok("start", "hc")
    becomes(target, "hc", "healthy")


def test_a_probe_that_hangs_is_killed(target: Target) -> None:
    flags = [
        "--health-cmd",
        "echo so far; sleep 777",
        "--health-interval",
        "200ms",
        "--health-timeout",
        "1s",
        "--health-retries",
        "1",
    ]
    target.ok("run", "-d", "--name", "hc", *flags, *FOREVER)
    becomes(target, "hc", "unhealthy")
    last = health(target, "hc")["Log"][0]
    assert last["ExitCode"] == -1
    # What it had said is there since Docker 24.
    said = "" if target.kind == "dockerd" else ": so far\n"
    assert last["Output"] == f"Health check exceeded timeout (1s){said}"


def test_a_child_of_a_hanging_probe_does_not_outlive_it(target: Target) -> None:
    if target.kind == "dockerd":
        pytest.skip("dockerd kills the probe alone")
    script = "sleep 777 & (sleep 778 &) ; sleep 779"
    flags = ["--health-cmd", script, "--health-interval", "1s", "--health-timeout", "500ms", "--health-retries", "1"]
    target.ok("run", "-d", "--name", "hc", *flags, *FOREVER)
    becomes(target, "hc", "unhealthy")
    target.ok("pause", "hc")
    assert len(health(target, "hc")["Log"]) >= 1
    shown = target.ok("top", "hc", "-o", "pid,args")
    # The next probe may have begun.
    assert shown.count("sleep 777") <= 1
    assert shown.count("sleep 778") <= 1


def test_long_output_is_cut(target: Target) -> None:
    flags = ["--health-cmd", "yes | head -c 10000", "--health-interval", "200ms"]
    target.ok("run", "-d", "--name", "hc", *flags, *FOREVER)
    becomes(target, "hc", "healthy")
    assert health(target, "hc")["Log"][0]["Output"] == "y\n" * 2048 + "..."


def test_a_command_that_is_not_there(target: Target) -> None:
    client = docker.DockerClient(base_url=target.socket, version="auto")
    made = client.api.create_container_from_config(
        {
            "Image": "busybox",
            "Cmd": list(FOREVER[1:]),
            "Healthcheck": {"Test": ["CMD", "/nosuch"], "Retries": 1, "Interval": 200_000_000},
        },
        "hc",
    )
    client.api.start(made["Id"])
    client.close()
    becomes(target, "hc", "unhealthy")
    assert health(target, "hc")["Log"][0]["ExitCode"] != 0
    assert "no such file" in health(target, "hc")["Log"][0]["Output"]


def test_without_a_check_there_is_no_health(target: Target) -> None:
    target.ok("run", "-d", "--name", "hc", "--no-healthcheck", *FOREVER)
    assert health(target, "hc") is None
    assert target.ok("ps", "-q", "--filter", "health=none") != ""


def test_a_paused_container_is_not_probed(target: Target) -> None:
    target.ok("run", "-d", "--name", "hc", "--health-cmd", "true", "--health-interval", "200ms", *FOREVER)
    becomes(target, "hc", "healthy")
    target.ok("pause", "hc")
    before = health(target, "hc")
    assert before["Status"] == "unhealthy"
    assert target.ok("ps", "--format", "{{.Status}}").endswith("(Paused)")
    target.ok("unpause", "hc")
    becomes(target, "hc", "healthy")
    assert [each for each in events(target, "hc") if each.startswith("health")] == ["health_status: healthy"] * 2


def test_a_timing_that_is_too_short(target: Target) -> None:
    done = target.docker("create", "--health-cmd", "true", "--health-interval", "1us", "busybox")
    assert done.returncode != 0
    assert "Interval in Healthcheck cannot be less than 1ms" in done.stderr
