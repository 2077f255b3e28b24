"""The operator's command: start, look, stop, start again, remove."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from bulkhead.linux.inode_groups import are_children_spread
from bulkhead.model.instance import SERVICES
from tests.e2e.counter import Counter
from tests.support.engine import COMMAND_SECONDS, Engine, nothing_left, private_engine


@pytest.fixture
def bare_engine() -> Iterator[Engine]:
    """An installation of which nothing was started yet."""
    with private_engine() as engine:
        yield engine


def test_up_twice_is_up_once(bare_engine: Engine) -> None:
    first = bare_engine.ctl("up")
    assert first.returncode == 0, first.stdout + first.stderr
    assert f"unix://{bare_engine.instance.docker_socket}" in first.stdout
    pids = [bare_engine.pid(service) for service in SERVICES]
    assert None not in pids
    second = bare_engine.ctl("up")
    assert second.returncode == 0
    assert "all four services run already" in second.stdout
    assert [bare_engine.pid(service) for service in SERVICES] == pids
    assert "Hello from Bulkhead!" in bare_engine.docker_ok("run", "--rm", "hello-world")


def test_down_keeps_containers_and_counts_them(bare_engine: Engine) -> None:
    assert bare_engine.ctl("up").returncode == 0
    counter = Counter(bare_engine, "counter")
    down = bare_engine.ctl("down")
    assert down.returncode == 0
    assert "1 container keeps running" in down.stdout
    assert bare_engine.ctl("status").returncode == 3
    assert bare_engine.ctl("up").returncode == 0
    assert bare_engine.ctl("status").returncode == 0
    counter.noticed_nothing()


def test_purge_removes_a_running_installation(bare_engine: Engine) -> None:
    assert bare_engine.ctl("up").returncode == 0
    Counter(bare_engine, "counter")
    purge = bare_engine.ctl("purge")
    assert purge.returncode == 0, purge.stderr
    assert nothing_left(bare_engine.instance) == []
    assert "1 running container killed" in purge.stdout


def test_kill_and_restart_name_the_new_process(engine: Engine) -> None:
    before = engine.pid("registry")
    assert f"(pid {before}) killed" in engine.ctl("kill", "registry").stdout
    assert engine.ctl("kill", "registry").returncode == 1
    assert engine.ctl("restart", "registry").returncode == 0
    assert engine.pid("registry") not in {before, None}


def test_a_service_that_cannot_start_is_named_with_its_log(bare_engine: Engine) -> None:
    """The operator sees the reason at once, not after the deadline."""
    instance = bare_engine.instance
    instance.run.mkdir(parents=True)
    (instance.run / "manager.pid").mkdir()
    refused = bare_engine.ctl("up")
    assert refused.returncode == 1
    assert "manager: it exited" in refused.stderr
    assert "cannot write pid file" in refused.stderr
    (instance.run / "manager.pid").rmdir()


def test_a_second_manager_on_the_same_data_is_refused(engine: Engine) -> None:
    """Two writers of one database would destroy it; the run directory alone does not tell."""
    environ = {**engine.environ, "BULKHEAD_RUN": str(engine.base / "other"), "BULKHEAD_BRIDGE": "bhother"}
    command = [sys.executable, "-m", "bulkhead.manager"]
    second = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    assert second.returncode == 1
    assert str(engine.instance.data) in second.stderr
    assert engine.docker_ok("run", "--rm", "busybox", "echo", "unharmed") == "unharmed"


def test_two_installations_side_by_side(engine: Engine, bare_engine: Engine) -> None:
    """Same names, same time, nothing shared; the end of one is nothing to the other."""
    bare_engine.start()
    bare_engine.seed()
    for each in (engine, bare_engine):
        each.docker_ok("run", "-d", "--name", "twin", "busybox", "sleep", "600")
    bare_engine.purge()
    assert engine.docker_ok("exec", "twin", "echo", "here") == "here"


def test_the_demo_finds_no_missing_number(bare_engine: Engine) -> None:
    demo = bare_engine.ctl("demo")
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert demo.stdout.count("yes") == 2
    assert bare_engine.api("GET", "/containers/json?all=1").json == []


def test_every_entry_point_has_help(bare_engine: Engine) -> None:
    for module in ("bulkhead.ctl", *(f"bulkhead.{service}" for service in SERVICES)):
        done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 0
        assert "--config" in done.stdout


def test_fsck_finds_rot_and_mends_it(engine: Engine) -> None:
    engine.pulled("busybox")
    clean = engine.ctl("fsck")
    assert (clean.returncode, clean.stdout.splitlines()[-1]) == (0, "no problems"), clean.stderr
    image = engine.api("GET", "/images/busybox/json").json["Id"].removeprefix("sha256:")
    (engine.instance.data / "content" / "blobs" / "sha256" / image).write_bytes(b"rot")
    found = engine.ctl("fsck")
    assert found.returncode == 1
    assert "instead of" in found.stdout
    assert engine.ctl("fsck", "--repair").returncode == 0
    assert engine.ctl("fsck").returncode == 0


def test_containers_are_made_where_others_have_not_just_been_removed(engine: Engine) -> None:
    places = [engine.instance.data / name for name in ("containers", "snapshots/containers")]
    kind = subprocess.run(["stat", "-f", "-c%T", str(places[0])], check=True, capture_output=True, text=True).stdout
    if not kind.startswith("ext"):
        pytest.skip("only the ext file systems can be told so")
    assert all(map(are_children_spread, places))
