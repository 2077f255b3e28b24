"""A shop of real programs (nginx, PostgreSQL, redis) by Compose, in use while daemons die: `make test-compose`.

Heavy: an image of 500 MB is made once, by debootstrap and apt, and kept in tests.support.images.CACHE.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e import shop
from tests.support.compose import Project, reading
from tests.support.engine import Engine
from tests.support.eventually import until
from tests.support.images import shop_tree

pytestmark = pytest.mark.skipif(os.environ.get("BULKHEAD_TEST_COMPOSE") != "1", reason="make test-compose runs it")

SECONDS = 300.0
SOURCES = Path(shop.__file__).parent
DATA, BIN = "/var/lib/postgresql/data", "/usr/lib/postgresql/15/bin"
TRUST = f"echo host all all 0.0.0.0/0 trust >> {DATA}.new/pg_hba.conf"
MADE = f"[ -d {DATA} ] || {{ {BIN}/initdb -A trust -D {DATA}.new && {TRUST} && mv {DATA}.new {DATA}; }}"
DATABASE = f"{MADE}; exec {BIN}/postgres -D {DATA} -c listen_addresses=* -c unix_socket_directories=/tmp"
NGINX = """
daemon off; worker_processes 1; error_log stderr; pid /tmp/nginx.pid; events {}
http { access_log off; server { listen 80; location / { proxy_pass http://api:8000; proxy_read_timeout 30s; } } }
"""
FILE = f"""
version: "2.4"
x-service: &service {{image: shop, stop_grace_period: 5s, init: true}}
x-often: &often {{interval: 1s, timeout: 5s, retries: 60}}
services:
  database:
    <<: *service
    user: postgres
    command: ["sh", "-c", "{DATABASE}"]
    volumes: ["rows:/var/lib/postgresql"]
    networks: [back]
    healthcheck: {{<<: *often, test: ["CMD", "{BIN}/pg_isready", "-h", "127.0.0.1"]}}
  cache:
    <<: *service
    command: redis-server --bind 0.0.0.0 --protected-mode no --dir /data --save 1 1
    volumes: ["counts:/data"]
    networks: {{back: {{aliases: [memory]}}}}
    healthcheck: {{<<: *often, test: ["CMD", "redis-cli", "ping"]}}
  api:
    <<: *service
    command: python3 /app/api.py
    volumes: ["{SOURCES}:/app:ro"]
    depends_on: {{database: {{condition: service_healthy}}, cache: {{condition: service_healthy}}}}
    networks: [front, back]
    healthcheck:
      <<: *often
      test: ["CMD", "python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000')"]
  worker:
    <<: *service
    command: python3 /app/worker.py
    volumes: ["{SOURCES}:/app:ro"]
    depends_on: {{api: {{condition: service_healthy}}}}
    networks: [front]
  web:
    <<: *service
    command: nginx -c /etc/shop.conf
    volumes: ["./nginx.conf:/etc/shop.conf:ro"]
    depends_on: {{api: {{condition: service_healthy}}}}
    ports: ["127.0.0.1::80"]
    networks: [front]
networks:
  front: {{}}
  back: {{internal: true}}
volumes: {{rows: {{}}, counts: {{}}}}
"""


@pytest.fixture
def project(fresh_engine: Engine, tmp_path: Path, request: pytest.FixtureRequest) -> Project:
    (tmp_path / "nginx.conf").write_text(NGINX)
    made = Project(fresh_engine.environ["DOCKER_HOST"], request.param, tmp_path, FILE)
    tar = subprocess.Popen(["tar", "-C", str(shop_tree()), "-c", "."], stdout=subprocess.PIPE)
    done = subprocess.run(
        ["docker", "import", "-", "shop"],
        stdin=tar.stdout,
        env=fresh_engine.environ,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0 and tar.wait() == 0, done.stderr
    return made


def answered(engine: Engine, project: Project) -> int:
    """How many answers the worker has got by name until now."""
    done = engine.docker("exec", project.container("worker"), "cat", "/tmp/count")
    return int(done.stdout or "0") if done.returncode == 0 else 0


def goes_on(project: Project, answers: list[str]) -> None:
    """Both clients get answers."""
    seen = len(answers)
    until(lambda: len(answers) > seen + 5)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("project", ["v1", "v2"], indirect=True)
def test_nobody_notices_that_daemons_die(fresh_engine: Engine, project: Project) -> None:
    engine = fresh_engine
    project.compose("up", "-d", seconds=SECONDS)
    until(lambda: answered(engine, project) > 0)
    with reading(project.port("web", 80)) as answers:
        goes_on(project, answers)
        for service in ("api", "manager", "supervisor", "registry"):
            engine.kill(service)
            goes_on(project, answers)
            engine.start(service)
        engine.kill()
        goes_on(project, answers)
        engine.start()
        before = answered(engine, project)
        project.compose("up", "-d", "--force-recreate", "--no-deps", "cache", seconds=SECONDS)
        engine.kill("manager")
        goes_on(project, answers)
        engine.start("manager")
        until(lambda: answered(engine, project) > before + 5)
        failures = engine.docker_ok("logs", project.container("worker"))
        project.compose("up", "-d", "--scale", "api=3", seconds=SECONDS)
        goes_on(project, answers)
    assert failures == "" and set(answers) == {"anchor"}
    assert int(engine.docker_ok("exec", project.container("cache"), "redis-cli", "get", "requests")) > before
    project.compose("down", "-v", seconds=SECONDS)
    assert engine.docker_ok("ps", "-aq") == "" and engine.docker_ok("volume", "ls", "-q") == ""
    assert engine.docker_ok("network", "ls", "--filter", "type=custom", "-q") == ""
