"""Services of an earlier release are stopped, this tree's are started over the same directories: containers, their
execs, logs and ports go on, and everything can be done to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import Engine, docker_cli, private_engine
from tests.support.eventually import until
from tests.support.releases import Release, release

pytestmark = [pytest.mark.root]
SECONDS = 30.0
# The last release; with BULKHEAD_TEST_RELEASES=all those before it too.
RELEASES = ("d41d35e", "40a00c9", "287c01c")[: 3 if os.environ.get("BULKHEAD_TEST_RELEASES") == "all" else 1]
# It serves a page, counts, and ends with a code of its own.
SERVE = """mkdir /www; echo page > /www/index.html; httpd -p 80 -h /www; trap 'exit 7' TERM
i=0; while :; do echo $i; i=$((i+1)); usleep 10000; done"""


@pytest.fixture(scope="module", params=RELEASES)
def earlier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Release:
    return release(request.param, tmp_path_factory.mktemp("release"))


@pytest.fixture
def engine() -> Iterator[Engine]:
    with private_engine() as made:
        yield made


def numbers(engine: Engine, name: str) -> list[int]:
    return [int(line) for line in engine.docker_ok("logs", name).splitlines()]


def page(engine: Engine, name: str) -> str:
    port = engine.docker_ok("port", name, "80/tcp").splitlines()[0].rpartition(":")[2]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/index.html", timeout=SECONDS) as answer:
        text: str = answer.read().decode()
        return text


def shim_record(engine: Engine, container_id: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((engine.instance.container_data(container_id) / "shim.json").read_bytes())
    return record


def upgrade(engine: Engine) -> None:
    """What the earlier release's services log about their end is theirs to answer for.

    Their managers, told to stop, noted the execs under way as ended: it is killed. The registry's format is its own
    affair: that of the first release is refused.
    """
    engine.kill("manager")
    engine.stop()
    engine.journals.tracebacks()
    engine.start("supervisor", "manager", "api")


def test_containers_of_an_earlier_release_are_driven(earlier: Release, engine: Engine) -> None:
    earlier.ctl(engine, "up")
    served = engine.docker_ok("run", "-d", "--name", "web", "-p", "127.0.0.1::80", "busybox", "sh", "-c", SERVE)
    engine.docker_ok(
        "run", "-d", "--name", "phoenix", "--restart", "always", "-v", "kept:/v", "busybox", "sleep", "600"
    )
    engine.docker_ok("create", "--name", "later", "busybox", "echo", "late")
    until(lambda: bool(numbers(engine, "web")))
    with subprocess.Popen(
        [docker_cli(), "exec", "web", "sh", "-c", "echo begun; sleep 600"],
        env=engine.environ,
        stdout=subprocess.PIPE,
        text=True,
    ) as attached:
        assert attached.stdout is not None
        assert attached.stdout.readline() == "begun\n"
        (exec_id,) = engine.api("GET", "/containers/web/json").json["ExecIDs"]
        pids = engine.docker_ok("inspect", "-f", "{{.State.Pid}}", "web", "phoenix")
        upgrade(engine)
        attached.wait(SECONDS)  # its connection was the old API's
    assert engine.docker_ok("ps", "--format", "{{.Names}} {{.State}}", "-a", "--no-trunc").split("\n") == [
        "later created",
        "phoenix running",
        "web running",
    ]
    assert engine.docker_ok("inspect", "-f", "{{.State.Pid}}", "web", "phoenix") == pids
    assert page(engine, "web") == "page\n"
    assert engine.docker_ok("exec", "web", "cat", "/www/index.html") == "page"
    assert engine.api("GET", f"/exec/{exec_id}/json").json["Running"] is True
    engine.docker_ok("pause", "web")
    engine.docker_ok("unpause", "web")
    at = len(numbers(engine, "web"))
    until(lambda: len(numbers(engine, "web")) > at)
    assert engine.docker_ok("start", "-a", "later") == "late"
    engine.docker_ok("kill", "phoenix")
    assert engine.docker_ok("start", "phoenix") == "phoenix"
    assert shim_record(engine, engine.docker_ok("ps", "-q", "--no-trunc", "-f", "name=phoenix"))["protocol"] == 2

    # A shim of the earlier release dies: this one's takes over what it held.
    old = shim_record(engine, served)["pid"]
    os.kill(old, signal.SIGKILL)
    until(lambda: shim_record(engine, served)["pid"] != old)
    assert engine.docker_ok("exec", "web", "echo", "well") == "well"

    engine.docker_ok("stop", "web")
    assert engine.docker_ok("inspect", "-f", "{{.State.ExitCode}}", "web") == "7"
    found = numbers(engine, "web")
    assert found == list(range(len(found)))
    engine.docker_ok("rm", "-f", "web", "phoenix", "later")
    engine.docker_ok("volume", "rm", "kept")
    assert engine.docker_ok("ps", "-aq") == ""


def test_a_shim_of_a_later_release_is_left_alone(fresh_engine: Engine) -> None:
    """Whatever is asked of its container is refused with a reason, and it runs on; the later release takes it back."""
    container = fresh_engine.docker_ok("run", "-d", "--name", "ahead", "busybox", "sleep", "600")
    record = fresh_engine.instance.container_data(container) / "shim.json"
    ours = shim_record(fresh_engine, container)
    fresh_engine.stop("manager")
    _write(record, {**ours, "protocol": 99, "version": "9.9"})
    fresh_engine.start("manager")
    for asked in (
        ("exec", "-d", "ahead", "true"),
        ("stop", "-t", "1", "ahead"),
        ("pause", "ahead"),
        ("rm", "-f", "ahead"),
    ):
        done = fresh_engine.docker(*asked)
        assert done.returncode != 0, asked
        assert "it speaks protocol 99 (Bulkhead 9.9), this Bulkhead 1 to 2; the container runs on" in done.stderr, asked
    assert fresh_engine.docker_ok("inspect", "-f", "{{.State.Running}}", "ahead") == "true"
    assert "protocol 99" in fresh_engine.ctl("doctor").stdout
    fresh_engine.stop("manager")
    _write(record, ours)
    fresh_engine.start("manager")
    assert fresh_engine.docker_ok("exec", "ahead", "echo", "back") == "back"


def _write(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record))
