"""A day of Compose, versions 1 and 2: started in order, looked at, scaled, changed, stopped, taken down."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compat.conftest import Target
from tests.support.compose import Project
from tests.support.eventually import until

FILE = """
x-service: &service {image: busybox, stop_grace_period: 0s, init: true}
services:
  database:
    <<: *service
    command: ["sh", "-c", "echo rows > /data/index.html; echo ready; exec httpd -f -p 80 -h /data"]
    volumes: ["rows:/data"]
    networks: [back]
    environment: {KIND: database, EMPTY: ""}
    healthcheck: {test: ["CMD", "test", "-s", "/data/index.html"], interval: 300ms, timeout: 5s, retries: 100}
  web:
    <<: *service
    command: ["sh", "-c", "mkdir /w; wget -qO /w/index.html http://store/ && exec httpd -f -p 80 -h /w"]
    depends_on: {database: {condition: service_healthy}}
    links: ["database:store"]
    ports: ["127.0.0.1::80"]
    networks: {front: {}, back: {aliases: [shown]}}
    labels: {tier: %(tier)s}
  once:
    <<: *service
    command: ["sh", "-c", "echo done; exit 3"]
    networks: [front]
    profiles: [extra]
networks: {front: {}, back: {internal: true}}
volumes: {rows: {labels: {kept: "1"}}}
"""


@pytest.fixture(params=["v1", "v2"])
def project(whole_target: Target, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Project]:
    made = Project(whole_target.socket, request.param, tmp_path, FILE % {"tier": "one"})
    yield made
    made.tried("--profile", "extra", "down", "-v", "-t", "0")


def _page(project: Project) -> bytes:
    client = http.client.HTTPConnection("127.0.0.1", project.port("web", 80), timeout=20)
    client.request("GET", "/")
    return client.getresponse().read()


def _reached(project: Project) -> bool:
    try:
        return _page(project) == b"rows\n"
    except OSError:
        return False


@pytest.mark.timeout(400)
def test_a_day(whole_target: Target, project: Project, tmp_path: Path) -> None:
    docker = whole_target.ok
    project.compose("up", "-d")
    # web began only once database was healthy: it found its page at the first try.
    until(lambda: _reached(project))
    assert set(project.compose("ps", "--services").split()) >= {"database", "web"}
    assert project.compose("exec", "-T", "database", "sh", "-c", "echo $KIND-$EMPTY-") == "database--"
    assert project.tried("exec", "-T", "web", "sh", "-c", "exit 4").returncode == 4
    assert project.compose("exec", "-T", "database", "wget", "-qO-", "http://shown/") == "rows"
    assert "ready" in project.compose("logs", "database")
    assert "ready" not in project.compose("logs", "--tail", "1", "web")
    assert "httpd" in project.compose("top")
    # A profile of its own, and a task beside.
    assert project.tried("run", "--rm", "once").returncode == 3
    assert "done" in project.tried("--profile", "extra", "up", "--no-deps", "once").stdout
    assert (
        project.compose("run", "--rm", "-T", "--no-deps", "-e", "KIND=task", "database", "env").count("KIND=task") == 1
    )
    # Nothing changed: nothing is made again; a changed label makes that one again.
    database, web = project.container("database"), project.container("web")
    project.compose("up", "-d")
    assert (project.container("database"), project.container("web")) == (database, web)
    (tmp_path / "docker-compose.yml").write_text(FILE % {"tier": "two"})
    project.compose("up", "-d")
    assert project.container("database") == database and project.container("web") != web
    assert docker("inspect", "-f", "{{.Config.Labels.tier}}", project.container("web")) == "two"
    until(lambda: _reached(project))
    project.compose("up", "-d", "--no-deps", "--scale", "web=3", "web")
    assert len(project.container("web").split()) == 3
    project.compose("up", "-d", "--no-deps", "--scale", "web=1", "web")
    project.compose("stop")
    assert docker("ps", "-q") == ""
    project.compose("start")
    project.compose("restart", "-t", "0", "web")
    until(lambda: _reached(project))
    project.compose("pause", "database")
    assert docker("inspect", "-f", "{{.State.Status}}", database) == "paused"
    project.compose("unpause", "database")
    project.compose("kill", "web")
    project.compose("rm", "-f", "web")
    assert project.tried("ps", "-q", "web").stdout.strip() == ""
    project.compose("down")
    assert docker("volume", "ls", "-q", "--filter", "label=kept=1") == "shop_rows"
    assert docker("network", "ls", "-q", "--filter", "label=com.docker.compose.project=shop") == ""
    project.compose("down", "-v")
    assert docker("volume", "ls", "-q", "--filter", "label=kept=1") == ""
