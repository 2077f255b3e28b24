"""The matrix's frame: whatever goes wrong is a red result, and all results are told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import pytest

from tests.survival.matrix import __main__ as frame
from tests.survival.matrix import facts, rows, selection
from tests.survival.matrix.cells import Matrix, Result
from tests.survival.matrix.columns import COLUMNS, Passed, Place, Way
from tests.survival.matrix.host import Host, Refused
from tests.survival.matrix.report import table, told

POINT = Passed(name="manager.remove.recorded", number=0, place=Place.MANAGER)
API_POINT = Passed(name="api.request.begun", number=0, place=Place.API)
POINTS = 1


class FakeMatrix:
    """One cell a column of the manager's; `harmed` rows are wrong without any fault."""

    def __init__(self, harmed: Sequence[str] = (), second: Sequence[str] = ()) -> None:
        self._harmed = harmed
        self._second = list(second)

    def unharmed(self, row: str) -> Result:
        return Result(row=row, column="no fault", point="", wrong=["wrong"] if row in self._harmed else [])

    def way(self, row: str) -> Way:
        return Way(points=tuple(replace(POINT, number=number) for number in range(POINTS)), has_container=False)

    def run(self, row: str, column: str, passed: Passed) -> Result:
        return Result(row=row, column=column, point=str(passed))

    def recovered(self, row: str) -> Result:
        return Result(row=row, column="second recovery", point="", wrong=self._second)


def ran(matrix: FakeMatrix, *arguments: str) -> list[Result]:
    options = frame._options(["--whole", "--columns", "kill manager,kill shim,second recovery", *arguments])
    return list(frame._run(cast(Matrix, matrix), options))


def test_a_row_that_is_wrong_without_a_fault_is_red_and_the_next_is_run() -> None:
    results = ran(FakeMatrix(harmed=["start"], second=["a second recovery changed x"]), "--rows", "start,rm")
    assert [(each.row, each.column, each.green) for each in results] == [
        ("start", "no fault", False),
        ("rm", "kill manager", True),
        ("rm", "kill shim", True),
        ("rm", "second recovery", False),
    ]
    assert [line.split() for line in table(results).splitlines()] == [
        ["kill", "manager", "kill", "shim", "no", "fault", "second", "recovery"],
        ["start", "-", "-", "0/1", "-"],
        ["rm", "1/1", "n/a", "1", "-", "0/1"],
    ]
    assert "n/a 1: it is about no container with a shim\n2 cells, 1 green" in told(results[1:], "heading")


def test_parts_together_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ran.__globals__, "POINTS", 7)
    parts = [ran(FakeMatrix(), "--rows", "start", "--part", f"{part}/3") for part in (1, 2, 3)]
    told = [[each for each in part if each.point] for part in parts]
    assert sorted(map(len, told)) == [2, 2, 3]
    assert len({each.point for part in told for each in part}) == 7
    assert [each.column for part in parts for each in part if each.column != "no fault" and not each.point] == [
        "kill shim",
        "second recovery",
    ]


def test_what_was_red_is_run_again_and_nothing_else(tmp_path: Path) -> None:
    def result(row: str, column: str, point: str, *wrong: str) -> dict[str, object]:
        return asdict(Result(row=row, column=column, point=point, wrong=list(wrong)))

    told = [
        result("start", "kill manager", str(POINT)),
        result("rm", "kill manager", str(POINT), "wrong"),
        result("rm", "kill manager", "manager.remove.begun", "wrong"),
        result("gc", "second recovery", "", "wrong"),
    ]
    file = tmp_path / "told"
    file.write_text(json.dumps({"results": told}))
    results = list(frame._run(cast(Matrix, FakeMatrix()), frame._options(["--again", str(file)])))
    assert [(each.row, each.column, each.point, each.green) for each in results] == [
        ("rm", "kill manager", "manager.remove.begun", False),
        ("rm", "kill manager", str(POINT), True),
        ("gc", "second recovery", "", True),
    ]


def _without_recovery(*arguments: str) -> list[Result]:
    return ran(FakeMatrix(), "--columns", "kill manager", *arguments)


def test_no_cell_is_no_success() -> None:
    wrong = [each.wrong for each in _without_recovery("--point", "no.such.point") if not each.green]
    assert wrong == [["there is no such cell"]]
    assert table([]).strip() == ""


WAY = Way(
    points=(
        API_POINT,
        POINT,
        *(Passed(name="manager.records.written", number=number, place=Place.MANAGER) for number in range(3)),
        *(Passed(name=f"shim.exit.{name}", number=0, place=Place.SHIM) for name in ("ended", "reaped", "drained")),
        *(Passed(name="disk.file.write", number=0, place=place) for place in (Place.SHIM, Place.MANAGER)),
        Passed(name="nsexec.spawn.begun", number=0, place=Place.SHIM),
    ),
    has_container=True,
)


@pytest.mark.parametrize("row", ["start", "rm", "gc"])
def test_what_covers_has_every_column_and_every_failpoint_in_every_process(row: str) -> None:
    chosen = selection.covering(row, WAY)
    assert {column for column, _ in chosen} == set(COLUMNS) - set(selection.lacking(WAY))
    assert {(passed.name, passed.place) for _, passed in chosen} == {(each.name, each.place) for each in WAY.points}
    assert len(set(chosen)) == len(chosen) < len(selection.whole(WAY))
    assert chosen == selection.covering(row, replace(WAY, points=WAY.points[::-1])), "whoever came first"
    for column, passed in chosen:
        assert passed in COLUMNS[column].struck(WAY)


def test_a_sample_is_of_what_the_covering_leaves_out_and_hangs_on_its_seed() -> None:
    sample = selection.sample("start", WAY, 10, 7)
    assert len(set(sample)) == 10 and not set(sample) & set(selection.covering("start", WAY))
    assert sample == selection.sample("start", replace(WAY, points=WAY.points[::-1]), 10, 7), "whoever came first"
    assert sample != selection.sample("start", WAY, 10, 8)
    assert set(selection.sample("start", WAY, 10_000, 7)) <= set(selection.whole(selection._in_order(WAY)))


def test_a_process_that_passes_nothing_suffers_beside_the_manager() -> None:
    way = Way(points=(API_POINT, POINT), has_container=True)
    (cell,) = COLUMNS["kill shim"].struck(way)
    assert (cell, COLUMNS["kill shim"].doing(cell)[0]) == (POINT, "stop")
    assert COLUMNS["kill manager"].doing(POINT)[0] == "kill"
    assert COLUMNS["kill shim"].struck(replace(way, has_container=False)) == []


@pytest.mark.parametrize("arguments", [("--rows", "start,nosuch"), ("--columns", "nosuch")])
def test_names_that_there_are_not(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        frame._options(arguments)
    assert ended.value.code == 2 and "no nosuch: there are " in capsys.readouterr().err


def test_lines_that_do_not_come_are_not_awaited_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mute(Host):
        def __init__(self) -> None:
            pass

        def output(self, name: str) -> str:
            return "1 2"

    monkeypatch.setattr(rows, "AWAIT_SECONDS", 0.05)
    with pytest.raises(Refused, match="lines of subject1: not there after"):
        rows._spoken(Mute(), "subject1")


def test_what_is_gone_has_changed_too() -> None:
    assert facts.changed({"a": 1, "b": 1, "c": 1}, {"b": 2, "c": 1, "d": 1}) == ["a", "b", "d"]
