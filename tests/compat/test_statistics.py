"""`docker stats` and docker-py's stats, beside dockerd."""

from __future__ import annotations

import json

import pytest
from docker import DockerClient

from tests.compat.conftest import Target

BUSY = ["sh", "-c", "wget -q -O- http://127.0.0.1:1 2>/dev/null; while :; do :; done"]


@pytest.fixture(params=["real", "dockerd"])
def target(target: Target) -> Target:
    """The engines that have containers of their own."""
    return target


def test_the_cli_shows_what_a_container_uses(target: Target) -> None:
    target.ok("run", "-d", "--name", "busy", "-m", "32m", "--pids-limit", "17", "busybox", *BUSY)
    target.ok("create", "--name", "idle", "busybox")
    lines = target.ok("stats", "--all", "--no-stream", "--format", "json").splitlines()
    shown = {each["Name"]: each for each in map(json.loads, lines)}
    assert float(shown["busy"]["CPUPerc"].rstrip("%")) > 1
    assert shown["busy"]["MemUsage"].endswith(" / 32MiB")
    assert shown["busy"]["PIDs"] == "1"
    assert shown["idle"]["MemUsage"] == "0B / 0B"


def test_samples_follow_each_other(client: DockerClient) -> None:
    container = client.containers.run("busybox", BUSY, detach=True, name="busy")
    stream = container.stats(decode=True, stream=True)
    first, second = next(stream), next(stream)
    stream.close()
    assert first["name"] == "/busy" and first["id"] == container.id
    assert second["preread"] == first["read"]
    assert second["precpu_stats"] == first["cpu_stats"]
    assert second["cpu_stats"]["cpu_usage"]["total_usage"] > first["cpu_stats"]["cpu_usage"]["total_usage"]
    alone = container.stats(stream=False)
    assert alone["precpu_stats"]["cpu_usage"]["total_usage"] > 0
    assert alone["memory_stats"]["usage"] > 0
    container.kill()
    container.wait()
    assert container.stats(stream=False)["cpu_stats"]["cpu_usage"]["total_usage"] == 0
