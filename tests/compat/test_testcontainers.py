"""What testcontainers' users do: a service from an image, waited for, reached by its published port, looked into."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.compat.conftest import Target
from tests.support.images import redis_archive

pytest.importorskip("testcontainers", reason="testcontainers is not installed")

IMAGE = "redis:debian"


@pytest.fixture
def image(whole_target: Target) -> str:
    if whole_target.docker("image", "inspect", IMAGE).returncode != 0:
        command = 'CMD ["/usr/bin/redis-server", "--port", "6379", "--protected-mode", "no"]'
        whole_target.ok("import", "-c", command, "-c", "EXPOSE 6379", "-", IMAGE, input=redis_archive())
    return IMAGE


@pytest.fixture
def redis(whole_target: Target, image: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Running, by testcontainers' own waiting; ryuk, its reaper, would have to come from Docker Hub."""
    monkeypatch.setenv("DOCKER_HOST", whole_target.socket)
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    monkeypatch.setattr(testcontainers_config, "ryuk_disabled", True)
    container = DockerContainer(image).with_exposed_ports(6379)
    container.waiting_for(LogMessageWaitStrategy("Ready to accept connections").with_startup_timeout(60))
    with container as running:
        yield running


def _ask(redis: Any, words: bytes) -> bytes:
    place = (redis.get_container_host_ip(), int(redis.get_exposed_port(6379)))
    with socket.create_connection(place, timeout=20) as connection:
        connection.sendall(words + b"\r\n")
        return connection.recv(4096)


@pytest.mark.timeout(600)
def test_redis_by_its_port_its_log_and_an_exec(redis: Any, whole_target: Target) -> None:
    assert _ask(redis, b"PING") == b"+PONG\r\n"
    assert _ask(redis, b"SET word hello") == b"+OK\r\n"
    code, said = redis.exec(["/usr/bin/redis-cli", "GET", "word"])
    assert (code, said) == (0, b"hello\n")
    out, _ = redis.get_logs()
    assert b"Ready to accept connections" in out
    name = redis.get_wrapped_container().name
    assert name in whole_target.ok("ps", "--filter", "label=org.testcontainers", "--format", "{{.Names}}")


@pytest.mark.timeout(600)
def test_containers_of_a_network_find_each_other(whole_target: Target, redis: Any) -> None:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.network import Network

    with Network() as network:
        network.connect(redis.get_wrapped_container().id, ["cache"])
        client = DockerContainer(IMAGE).with_network(network)
        client.with_command(["/usr/bin/redis-cli", "-h", "cache", "PING"])
        with client as running:
            wrapped = running.get_wrapped_container()
            assert wrapped.wait(timeout=60)["StatusCode"] == 0
            assert running.get_logs()[0] == b"PONG\n"
        whole_target.ok("network", "disconnect", network.name, redis.get_wrapped_container().name)


def test_nothing_is_left(whole_target: Target) -> None:
    assert whole_target.ok("ps", "-aq", "--filter", "label=org.testcontainers") == ""
