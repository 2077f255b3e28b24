"""A slice of the crash matrix: cells that have found defects, and one of each kind. The whole: `make test-survival`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkhead.ctl.seed.push import push
from bulkhead.model.instance import SPARE
from tests.support.engine import private_engine
from tests.survival.matrix import cells
from tests.survival.matrix.cells import Matrix
from tests.survival.matrix.columns import Passed, Place
from tests.survival.matrix.host import Host, until
from tests.survival.matrix.machine import machine
from tests.survival.matrix.rows import Subject
from tests.survival.test_image_kills import trial_image

pytestmark = [pytest.mark.root]

CELLS = (
    ("start late", "kill supervisor", "supervisor.launch.given", Place.SUPERVISOR),
    ("create", "kill manager", "manager.ahead.begun", Place.MANAGER),
    ("create", "kill manager", "manager.ahead.launched", Place.MANAGER),
    ("create", "kill supervisor", "supervisor.launch.given", Place.SUPERVISOR),
    ("create", "kill shim", "shim.claim.recorded", Place.SHIM),
    ("create", "kill all", "supervisor.launch.kept", Place.SUPERVISOR),
    ("create", "run wiped", "manager.records.written", Place.MANAGER),
    ("start", "kill shim", "disk.file.rename", Place.SHIM),
    ("start", "kill shim", "nsexec.spawn.cloned", Place.SHIM),
    ("start", "EAGAIN on clone", "nsexec.spawn.begun", Place.SHIM),
    ("run", "kill shim", "shim.exit.reaped", Place.SHIM),
    ("run", "kill all", "shim.exit.drained", Place.SHIM),
    ("pause", "kill shim", "shim.pause.frozen", Place.SHIM),
    ("update", "kill manager", "manager.update.recorded", Place.MANAGER),
    ("disconnect", "kill manager", "manager.connect.named", Place.MANAGER),
    ("disconnect", "kill manager", "manager.disconnect.published", Place.MANAGER),
    ("exec", "kill manager", "manager.exec.expected", Place.MANAGER),
    ("exec", "kill manager", "manager.exec.ended", Place.MANAGER),
    ("exec", "kill all", "manager.exec.begun", Place.MANAGER),
    ("rm", "kill manager", "manager.remove.recorded", Place.MANAGER),
    ("rm", "kill manager", "manager.spare.named", Place.MANAGER),
    ("rm", "kill manager", "manager.spare.furnished", Place.MANAGER),
    ("start late", "no descriptors", "manager.shim.launched", Place.MANAGER),
    ("run", "no descriptors", "manager.start.wired", Place.MANAGER),
    ("run --rm", "kill manager", "manager.start.begun", Place.MANAGER),
    ("run --rm", "no descriptors", "shim.create.launched", Place.SHIM),
    ("run", "no processes", "manager.start.wired", Place.MANAGER),
    ("unpause", "kill init", "manager.unpause.thawed", Place.MANAGER),
    ("unpause", "ENOSPC", "manager.records.written", Place.MANAGER),
    ("volume rm", "kill api", "manager.records.written", Place.MANAGER),
    ("commit", "kill api", "manager.pause.frozen", Place.MANAGER),
    ("commit", "run wiped", "disk.store.rename", Place.MANAGER),
    ("connect", "ENOSPC", "disk.file.write", Place.MANAGER),
    ("start", "clock -1 h", "shim.start.begun", Place.SHIM),
    ("load", "ENOSPC", "disk.layer.rename", Place.MANAGER),
)


@pytest.fixture(scope="module")
def matrix() -> Iterator[Matrix]:
    with machine(boots=False) as on, private_engine() as engine:
        engine.start()
        engine.seed()
        engine.pulled("busybox")
        host = Host(engine, on)
        host.place_bystander()
        matrix = Matrix(host)
        yield matrix
        assert matrix.second_recovery() == []


@pytest.mark.parametrize(("row", "column", "point", "place"), CELLS, ids=[f"{c[0]}, {c[1]}, {c[2]}" for c in CELLS])
def test_cell(matrix: Matrix, row: str, column: str, point: str, place: Place) -> None:
    result = matrix.run(row, column, Passed(name=point, number=0, place=place))
    assert result.passed, "the operation does not come there"
    assert not result.wrong, f"{result.wrong}; the operation said {result.said!r}"


@pytest.mark.parametrize("number", [0, 1], ids=["directory", "layer"])
def test_a_manager_is_killed_as_it_hands_on_what_a_removed_container_left(matrix: Matrix, number: int) -> None:
    host = matrix.host
    removed = host.create(host.name(), "true")
    host.done("DELETE", f"/containers/{removed}")
    assert until(lambda: all(map(spares, places(host))), 5.0)
    result = matrix.run(
        "create", "kill manager", Passed(name="manager.spare.finished", number=number, place=Place.MANAGER)
    )
    assert result.passed, "the operation does not come there"
    assert not result.wrong, f"{result.wrong}; the operation said {result.said!r}"


def places(host: Host) -> list[Path]:
    return [host.engine.instance.data / name for name in ("containers", "snapshots/containers")]


def spares(place: Path) -> list[Path]:
    return list(place.glob(f"{SPARE}*"))


def test_what_a_dead_manager_kept_for_containers_to_come_is_swept(matrix: Matrix) -> None:
    host = matrix.host
    for place in places(host):
        (place / f"{SPARE}left" / "work").mkdir(parents=True)
    host.engine.kill("manager")
    host.recover()
    assert until(lambda: not any((place / f"{SPARE}left").exists() for place in places(host)), 10.0)


def test_what_comes_of_an_earlier_push_is_not_on_the_way(matrix: Matrix) -> None:
    push(matrix.host.engine.instance.registry, matrix.host.name(), "latest", trial_image())
    places = {passed.place for passed in matrix.way("volume create").points}
    assert places == {Place.API, Place.MANAGER}


def test_a_lost_container_is_a_red_cell(matrix: Matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(host: Host) -> Subject:
        return Subject(act=lambda: host.state(host.name())["Status"], done=list)

    monkeypatch.setattr(cells, "ROWS", {"lost": lost})
    monkeypatch.setattr(cells, "REPEAT_SECONDS", 0.1)
    assert matrix.unharmed("lost").wrong == ["KeyError: 'Status'"]
    result = matrix.run("lost", "kill manager", Passed(name="manager.remove.recorded", number=0, place=Place.MANAGER))
    assert (result.wrong, result.said) == (["repeated: KeyError('Status')"], "'Status'")
