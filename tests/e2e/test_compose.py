"""An application of five services by Compose: started, scaled, partly made anew, taken down, while daemons die."""

from __future__ import annotations

from pathlib import Path

import pytest

from bulkhead.linux.netlink import Netlink
from tests.support.compose import Project, reading
from tests.support.engine import Engine
from tests.support.eventually import until

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


@pytest.fixture
def shop(fresh_engine: Engine, tmp_path: Path) -> Project:
    return Project(fresh_engine.environ["DOCKER_HOST"], "any", tmp_path, FILE)


def _asked(engine: Engine, shop: Project) -> int:
    """How many answers the worker has got by name until now."""
    done = engine.docker("exec", shop.container("worker"), "cat", "/count")
    return int(done.stdout or "0") if done.returncode == 0 else 0


@pytest.mark.timeout(400)
def test_an_application_serves_while_every_daemon_dies(fresh_engine: Engine, shop: Project) -> None:
    engine = fresh_engine
    shop.compose("up", "-d")
    port = shop.port("web", 80)
    until(lambda: "LISTEN" in engine.docker_ok("exec", shop.container("web"), "netstat", "-ltn"))
    until(lambda: _asked(engine, shop) > 0)
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
        before = _asked(engine, shop)
        shop.compose("up", "-d", "--scale", "api=3")
        shop.compose("up", "-d", "--force-recreate", "--no-deps", "cache")
        until(lambda: _asked(engine, shop) > before + 5)
    assert set(answers) == {"database\n"}
    names = engine.docker_ok("exec", worker, "nslookup", "api").partition("Name:")[2]
    assert names.count("Address") == 3
    # The one that was made anew has its name from its start, too.
    fetch = ("exec", shop.container("database"), "wget", "-qO-", "http://memory/")
    until(lambda: engine.docker(*fetch).stdout == "cache\n")
    assert engine.docker("exec", worker, "nslookup", "database").returncode != 0
    shop.compose("down", "-v")
    assert engine.docker_ok("ps", "-aq") == "" and engine.docker_ok("volume", "ls", "-q") == ""
    assert engine.docker_ok("network", "ls", "--filter", "type=custom", "-q") == ""
    assert not _bridges_of(engine)


def _bridges_of(engine: Engine) -> list[str]:
    with Netlink() as host:
        return [link.name for link in host.links() if link.alias and link.alias == engine.instance.network_alias]
