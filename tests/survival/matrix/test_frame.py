"""The matrix's frame: whatever goes wrong is a red result, and all results are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from tests.survival.matrix import __main__ as frame
from tests.survival.matrix import facts, rows
from tests.survival.matrix.cells import Matrix, Passed, Place, Result
from tests.survival.matrix.host import Host, Refused
from tests.survival.matrix.report import table

POINT = Passed(name="manager.remove.recorded", number=0, place=Place.MANAGER)


CELLS = 1


class FakeMatrix:
    """One cell a column; `harmed` rows are wrong without any fault."""

    def __init__(self, harmed: Sequence[str] = (), second: Sequence[str] = ()) -> None:
        self._harmed = harmed
        self._second = list(second)

    def unharmed(self, row: str) -> Result:
        return Result(row=row, column="no fault", point="", wrong=["wrong"] if row in self._harmed else [])

    def cells(self, row: str, column: str) -> list[Passed]:
        return [POINT] * CELLS

    def run(self, row: str, column: str, passed: Passed) -> Result:
        return Result(row=row, column=column, point=str(passed))

    def recovered(self) -> Result:
        return Result(row="all", column="second recovery", point="", wrong=self._second)


def ran(matrix: FakeMatrix, *arguments: str) -> list[Result]:
    options = frame._options(["--columns", "kill manager", *arguments])
    return list(frame._run(cast(Matrix, matrix), options))


def test_a_row_that_is_wrong_without_a_fault_is_red_and_the_next_is_run() -> None:
    results = ran(FakeMatrix(harmed=["start"], second=["a second recovery changed x"]), "--rows", "start,rm")
    assert [(each.row, each.column, each.green) for each in results] == [
        ("start", "no fault", False),
        ("rm", "kill manager", True),
        ("all", "second recovery", False),
    ]
    assert [line.split() for line in table(results).splitlines()] == [
        ["kill", "manager", "no", "fault", "second", "recovery"],
        ["start", "-", "0/1", "-"],
        ["rm", "1/1", "-", "-"],
        ["all", "-", "-", "0/1"],
    ]


def test_parts_together_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ran.__globals__, "CELLS", 7)
    parts = [len(ran(FakeMatrix(), "--rows", "start", "--part", f"{part}/3")) - 1 for part in (1, 2, 3)]
    assert parts == [3, 2, 2]


def test_no_cell_is_no_success() -> None:
    wrong = [each.wrong for each in ran(FakeMatrix(), "--point", "no.such.point") if not each.green]
    assert wrong == [["there is no such cell"]]
    assert table([]).strip() == ""


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
