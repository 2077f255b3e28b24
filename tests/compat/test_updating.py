"""`docker update`, beside dockerd: on the fly, after a restart, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import docker
import pytest

from tests.compat.conftest import Target


@pytest.fixture(params=["real", "dockerd"])
def target(target: Target) -> Target:
    """The engines that have containers of their own."""
    return target


def host_config(target: Target, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(target.ok("inspect", name))[0]["HostConfig"]
    return found


def limit(target: Target, name: str) -> str:
    (shown,) = target.ok("stats", "--no-stream", "--format", "{{.MemUsage}}", name).splitlines()
    return shown.partition(" / ")[2]


def test_limits_of_one_that_runs(target: Target) -> None:
    target.ok("run", "-d", "--name", "box", "-m", "64m", "busybox", "sleep", "600")
    assert target.ok("update", "-m", "32m", "--cpu-shares", "512", "--pids-limit", "50", "box") == "box"
    assert limit(target, "box") == "32MiB"
    shown = host_config(target, "box")
    assert (shown["Memory"], shown["MemorySwap"]) == (32 << 20, 128 << 20)
    assert (shown["CpuShares"], shown["PidsLimit"]) == (512, 50)
    target.ok("update", "-m", "256m", "--memory-swap", "512m", "--restart", "on-failure:3", "box")
    assert limit(target, "box") == "256MiB"
    assert host_config(target, "box")["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    target.ok("restart", "-t", "0", "box")
    assert limit(target, "box") == "256MiB"


def test_one_that_never_ran(target: Target) -> None:
    target.ok("create", "--name", "box", "busybox", "sleep", "600")
    target.ok("update", "--cpus", "0.5", "--cpuset-cpus", "0", "box")
    shown = host_config(target, "box")
    assert (shown["NanoCpus"], shown["CpusetCpus"]) == (500_000_000, "0")
    assert target.ok("start", "box") == "box"


def test_swap_without_a_limit_stays_when_something_else_changes(target: Target) -> None:
    target.ok("create", "--name", "box", "-m", "64m", "--memory-swap", "-1", "busybox", "true")
    target.ok("update", "--cpu-shares", "512", "box")
    shown = host_config(target, "box")
    assert (shown["CpuShares"], shown["MemorySwap"]) == (512, -1)


@pytest.mark.parametrize(
    ("made", "changed", "words"),
    [
        (["--cpu-period", "50000"], ["--cpus", "1"], "Nano CPUs cannot be updated as CPU Period has already been set"),
        (["--cpus", "1"], ["--cpu-quota", "5000"], "CPU Quota cannot be updated as NanoCPUs has already been set"),
        (["-m", "64m"], ["-m", "1g"], "Memory limit should be smaller than already set memoryswap limit"),
        ([], ["-m", "64m"], "Memory limit should be smaller than already set memoryswap limit"),
        (["-m", "64m", "--memory-swap", "-1"], ["-m", "1g"], "Memory limit should be smaller than"),
        (["--rm"], ["--restart", "always"], "Restart policy cannot be updated because AutoRemove is enabled"),
        ([], ["-m", "1m"], "Minimum memory limit allowed is 6MB"),
        ([], ["--cpuset-cpus", "999"], "Requested CPUs are not available"),
        ([], ["--restart", "sometimes"], "invalid restart policy"),
    ],
)
def test_what_is_refused(target: Target, made: list[str], changed: list[str], words: str) -> None:
    target.ok("create", "--name", "box", *made, "busybox", "true")
    before = host_config(target, "box")
    done = target.docker("update", *changed, "box")
    assert (done.returncode, words in done.stderr) == (1, True), done.stderr
    assert host_config(target, "box") == before


def test_a_limit_of_processes_that_is_taken_away_is_shown_as_zero(target: Target) -> None:
    target.ok("create", "--name", "box", "--pids-limit", "32", "busybox", "true")
    target.ok("update", "--pids-limit", "-1", "box")
    assert host_config(target, "box")["PidsLimit"] == 0
    target.ok("create", "--name", "free", "--pids-limit", "-1", "busybox", "true")
    assert host_config(target, "free")["PidsLimit"] is None


def test_old_clients_know_of_no_limit_of_processes(target: Target) -> None:
    target.ok("create", "--name", "box", "--pids-limit", "32", "busybox", "true")
    old = docker.APIClient(base_url=target.socket, version="1.39")
    answer = old._post_json(old._url("/containers/box/update"), {"PidsLimit": 16, "CpuShares": 512})
    assert answer.status_code == 200
    shown = host_config(target, "box")
    assert (shown["PidsLimit"], shown["CpuShares"]) == (32, 512)
