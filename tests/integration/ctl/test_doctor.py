"""`bulkhead doctor` names each thing that should not be there, mends it, and harms nothing else."""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from bulkhead.ctl import remains
from bulkhead.ctl.doctor import doctor
from bulkhead.ctl.doctor import instance as instance_examination
from bulkhead.model.instance import Instance
from tests.support.engine import Engine, private_engine
from tests.support.eventually import until

pytestmark = [pytest.mark.root]
STRANGER = "f00d" * 16


def examined(engine: Engine, *, repair: bool = False) -> tuple[int, list[dict[str, Any]]]:
    """The doctor's exit status, and what it says of the installation that is not well."""
    lines: list[str] = []
    status = doctor(engine.settings, repair=repair, as_json=True, say=lines.append)
    (report,) = map(json.loads, lines)
    return status, [each for each in report["findings"] if each["area"] == "instance" and each["level"] != "ok"]


def without_manager(said: tuple[int, list[dict[str, Any]]]) -> tuple[int, list[dict[str, Any]]]:
    return said[0], [each for each in said[1] if each["subject"] != "manager"]


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextlib.contextmanager
def cgroup(instance: Instance) -> Iterator[str]:
    place = remains.cgroup_parents(instance)[0] / STRANGER
    place.mkdir()
    sleeper = subprocess.Popen(["sleep", "60"])
    (place / "cgroup.procs").write_text(str(sleeper.pid))
    yield f"cgroup {STRANGER}"
    assert sleeper.wait(timeout=10) == -9
    assert not place.exists()


@contextlib.contextmanager
def interface(instance: Instance) -> Iterator[str]:
    name = f"{instance.veth_prefix}{secrets.token_hex(4)}"
    run("ip", "link", "add", name, "type", "veth", "peer", "name", f"p{name[2:]}")
    run("ip", "link", "set", name, "master", instance.bridge)
    yield f"interface {name}"
    assert not Path("/sys/class/net", name).exists()


@contextlib.contextmanager
def published_port(instance: Instance) -> Iterator[str]:
    run("nft", "add", "element", "inet", instance.nft_table, "published_any", "{ tcp . 9 : 192.0.2.9 . 9 }")
    yield f"nft element inet {instance.nft_table} published_any"


@contextlib.contextmanager
def seat(instance: Instance) -> Iterator[str]:
    run("nft", "add", "element", "bridge", instance.nft_table, "seats", '{ "gone0" . 02:42:c0:00:02:09 }')
    yield f"nft element bridge {instance.nft_table} seats"


@contextlib.contextmanager
def mount(instance: Instance) -> Iterator[str]:
    place = instance.run / "netns"
    place.mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "none", str(place))
    yield f"mount {place}"
    assert not place.is_mount()
    place.rmdir()


@contextlib.contextmanager
def sockets(instance: Instance) -> Iterator[str]:
    place = instance.container_run(STRANGER)
    place.mkdir(parents=True)
    (place / "shim.sock").touch()
    yield f"directory {place}"
    assert not place.exists()


@contextlib.contextmanager
def open_socket(instance: Instance) -> Iterator[str]:
    instance.manager_socket.chmod(0o666)
    yield f"mode of {instance.manager_socket}"
    assert instance.manager_socket.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("plant", [cgroup, interface, published_port, seat, mount, sockets, open_socket])
def test_what_no_record_owns_is_named_and_mended(
    engine: Engine, plant: Callable[[Instance], AbstractContextManager[str]]
) -> None:
    """Beside a running container, which is left alone."""
    engine.docker_ok(
        "run", "-d", "--name", "bystander", "-p", "127.0.0.1::80", "-v", "kept:/v", "busybox", "sleep", "600"
    )
    if plant in (published_port, seat):
        engine.kill("manager")  # it looks after its tables itself, whenever another firewall changes its own
    with plant(engine.instance) as subject:
        status, found = without_manager(examined(engine))
        assert (status, [each["subject"] for each in found]) == (1, [subject])
        status, found = without_manager(examined(engine, repair=True))
        assert [each["repaired"] for each in found] == [True]
        assert without_manager(examined(engine))[1] == []
    engine.start()
    assert examined(engine) == (0, [])
    assert engine.docker_ok("exec", "bystander", "echo", "well") == "well"
    engine.docker_ok("rm", "-fv", "bystander")
    engine.docker_ok("volume", "rm", "kept")


def test_a_container_without_its_record_is_taken_away_whole(fresh_engine: Engine) -> None:
    """Its shim, cgroup, cable, addresses and directories; with every daemon down, and its neighbour untouched."""
    instance = fresh_engine.instance
    lost = fresh_engine.docker_ok("run", "-d", "-p", "127.0.0.1::80", "busybox", "sleep", "600")
    fresh_engine.docker_ok("run", "-d", "--name", "neighbour", "-p", "127.0.0.1::80", "busybox", "sleep", "600")
    fresh_engine.stop()
    with contextlib.closing(sqlite3.connect(instance.data / "bulkhead.db")) as database, database:
        database.execute("DELETE FROM containers WHERE id = ?", (lost,))
    status, found = examined(fresh_engine)
    kinds = [each["subject"].split()[0] for each in found]
    # Both directories in data, and the run directory; in which order the kernel lists elements is its own affair.
    assert (status, set(kinds)) == (1, {"services", "cgroup", "shim", "interface", "nft", "directory"})
    assert kinds.count("directory") == 3
    status, found = examined(fresh_engine, repair=True)
    assert [each for each in found if each["level"] == "fail" and not each["repaired"]] == []
    assert status == 0
    assert [each["subject"] for each in examined(fresh_engine)[1]] == ["services"]
    fresh_engine.start()
    assert examined(fresh_engine) == (0, [])
    assert fresh_engine.docker_ok("exec", "neighbour", "echo", "well") == "well"


def test_leftovers_on_disk_are_removed_and_a_volumes_files_kept(fresh_engine: Engine) -> None:
    data = fresh_engine.instance.data
    fresh_engine.stop("manager", "api")
    leftovers = [data / "snapshots" / "containers" / STRANGER, data / "snapshots" / "layers" / STRANGER]
    for place in (*leftovers, data / "volumes" / "lost" / "_data"):
        place.mkdir(parents=True)
    (data / "volumes" / "lost" / "_data" / "thesis").write_text("x")
    examined(fresh_engine, repair=True)
    assert [place for place in leftovers if place.exists()] == []
    assert (data / "volumes" / "lost" / "_data" / "thesis").read_text() == "x"
    fresh_engine.start()
    assert "lost" in fresh_engine.docker_ok("volume", "ls", "-q").split()


def test_files_of_a_container_that_was_just_removed_are_on_their_way(
    fresh_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manager takes them away behind its answer, later on a slow disk; without one they are nobody's."""
    monkeypatch.setattr(instance_examination, "BEING_MADE", 0.001)  # as if everything had been there for long
    containers = fresh_engine.instance.data / "snapshots" / "containers"
    removed = fresh_engine.docker_ok("create", "busybox", "true")
    fresh_engine.docker_ok("rm", removed)
    until(lambda: not (containers / removed).exists())
    for name in (removed, STRANGER):
        (containers / name).mkdir()
    status, found = examined(fresh_engine)
    assert (status, [each["subject"] for each in found]) == (1, [f"directory {containers / STRANGER}"])
    fresh_engine.stop()
    told = {each["subject"] for each in examined(fresh_engine, repair=True)[1]}
    assert {f"directory {containers / name}" for name in (removed, STRANGER)} <= told
    fresh_engine.start()
    assert examined(fresh_engine) == (0, [])


def test_without_readable_records_nothing_is_touched(fresh_engine: Engine) -> None:
    """Everything would look like an orphan."""
    container = fresh_engine.docker_ok("run", "-d", "busybox", "sleep", "600")
    fresh_engine.stop()
    database = fresh_engine.instance.data / "bulkhead.db"
    healthy = database.read_bytes()
    database.write_bytes(b"no database at all" * 1000)
    try:
        status, found = examined(fresh_engine, repair=True)
        assert (status, [each["subject"] for each in found if each["level"] == "fail"]) == (1, ["records"])
        assert remains.running_containers(fresh_engine.instance) == {container}
    finally:
        database.write_bytes(healthy)


def test_a_service_that_is_away_is_named(fresh_engine: Engine) -> None:
    fresh_engine.kill("supervisor")
    status, found = examined(fresh_engine)
    assert (status, [each["subject"] for each in found]) == (1, ["supervisor"])


def test_an_installation_that_never_was_is_no_trouble() -> None:
    with private_engine() as engine:
        done = engine.ctl("doctor")
        assert (done.returncode, "never started" in done.stdout) == (0, True), done.stdout
