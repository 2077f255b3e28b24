"""An application of five services by Compose: started, scaled, partly made anew, taken down, while daemons die."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bulkhead.linux.netlink import Netlink
from tests.support.engine import Engine

COMPOSE = (["docker", "compose"], ["docker-compose"])
SECONDS = 60.0
SERVE = "exec httpd -f -p 80 -h /w"
ASKED = "until wget -qO /w/index.html http://{0}/ && grep -q database /w/index.html; do usleep 100000; done"
ASKING = (
    "n=0; while :; do if wget -qO- http://{0}/ | grep -q database; then n=$$((n+1)); echo $$n > /count; "
    "else echo failed; fi; usleep 50000; done"
)
FILE = f"""
version: "2.4"
x-service: &service {{image: busybox, stop_grace_period: 0s, init: true}}
services:
  database:
    <<: *service
    command: sh -c 'ln -s /data /w; echo database > /data/index.html; {SERVE}'
    volumes: ["rows:/data"]
    networks: [back]
  cache:
    <<: *service
    command: sh -c 'mkdir /w; echo cache > /w/index.html; {SERVE}'
    networks: {{back: {{aliases: [memory]}}}}
  api:
    <<: *service
    command: sh -c 'mkdir /w; {ASKED.format("database")}; {SERVE}'
    depends_on: [database, cache]
    networks: [front, back]
  worker:
    <<: *service
    command: sh -c 'until wget -qO- http://api/; do usleep 100000; done; {ASKING.format("api")}'
    depends_on: [api]
    networks: [front]
  web:
    <<: *service
    command: sh -c 'mkdir /w; {ASKED.format("api")}; {SERVE}'
    depends_on: [api]
    ports: ["127.0.0.1::80"]
    networks: [front]
networks:
  front: {{}}
  back: {{internal: true}}
volumes:
  rows: {{}}
"""


class Application:
    """The project `shop`."""

    def __init__(self, engine: Engine, program: list[str], directory: Path) -> None:
        self.engine = engine
        self._command = [*program, "-p", "shop", "-f", str(directory / "docker-compose.yml")]
        (directory / "docker-compose.yml").write_text(FILE)
        # Compose 1 indexes what newer API versions do not answer.
        self._environ = {
            **os.environ,
            "DOCKER_HOST": f"unix://{engine.instance.docker_socket}",
            "COMPOSE_API_VERSION": "1.41",
            "COMPOSE_IGNORE_ORPHANS": "1",
        }

    def compose(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._command, *arguments], env=self._environ, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def container(self, service: str) -> str:
        return self.compose("ps", "-q", service)

    def asked(self) -> int:
        """How many answers the worker has got by name until now."""
        done = self.engine.docker("exec", self.container("worker"), "cat", "/count")
        return int(done.stdout or "0") if done.returncode == 0 else 0


@contextlib.contextmanager
def reading(port: int) -> Iterator[list[str]]:
    """A client that reads through a published port without pause; what came back, one after another."""
    answers: list[str] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            try:
                client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                client.request("GET", "/")
                answers.append(client.getresponse().read().decode())
                client.close()
            except OSError as error:
                answers.append(repr(error))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield answers
    finally:
        ended.set()
        thread.join()


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


@pytest.fixture
def shop(fresh_engine: Engine, tmp_path: Path) -> Application:
    for program in COMPOSE:
        known = shutil.which(program[0])
        if known and subprocess.run([*program, "version"], capture_output=True, check=False).returncode == 0:
            fresh_engine.docker_ok("pull", "busybox")
            return Application(fresh_engine, program, tmp_path)
    pytest.skip("no Compose on this machine (Debian: apt install docker-compose)")


def test_an_application_serves_while_every_daemon_dies(shop: Application) -> None:
    engine = shop.engine
    shop.compose("up", "-d")
    port = int(shop.compose("port", "web", "80").rpartition(":")[2])
    until(lambda: "LISTEN" in engine.docker_ok("exec", shop.container("web"), "netstat", "-ltn"))
    until(lambda: shop.asked() > 0)
    worker = shop.container("worker")
    with reading(port) as answers:
        for service in ("api", "manager", "supervisor", "registry"):
            engine.kill(service)
            seen = len(answers)
            until(lambda seen=seen: len(answers) > seen + 5)  # type: ignore[misc]
            engine.start(service)
        engine.kill()
        seen = len(answers)
        until(lambda: len(answers) > seen + 5)
        engine.start()
        # Before it is scaled: a replica has its name from its start, and serves a moment later.
        assert "failed" not in engine.docker_ok("logs", worker)
        before = shop.asked()
        shop.compose("up", "-d", "--scale", "api=3")
        shop.compose("up", "-d", "--scale", "api=3", "--force-recreate", "--no-deps", "cache")
        until(lambda: shop.asked() > before + 5)
    assert set(answers) == {"database\n"}
    names = engine.docker_ok("exec", worker, "nslookup", "api").partition("Name:")[2]
    assert names.count("Address") == 3
    assert engine.docker_ok("exec", shop.container("database"), "wget", "-qO-", "http://memory/") == "cache"
    assert engine.docker("exec", worker, "nslookup", "database").returncode != 0
    shop.compose("down", "-v")
    assert engine.docker_ok("ps", "-aq") == "" and engine.docker_ok("volume", "ls", "-q") == ""
    assert engine.docker_ok("network", "ls", "--filter", "type=custom", "-q") == ""
    assert not _bridges_of(engine)


def _bridges_of(engine: Engine) -> list[str]:
    with Netlink() as host:
        return [link.name for link in host.links() if link.alias and link.alias == engine.instance.network_alias]
