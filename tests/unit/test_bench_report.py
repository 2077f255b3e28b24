"""The bench's verdicts: what a ratio means, and when a goal is met."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.bench import report
from tests.bench.budgets import GOALS
from tests.bench.sitting import Sitting

LIFE = "create+start+wait+remove, none [ms]"
EIGHT = "8 clients, none [containers/s]"


def test_a_ratio_is_of_rounds_that_met_the_same_load() -> None:
    """A load that slows both in one round must not count against one of them."""
    assert report.ratio(LIFE, [10, 100, 10], [50, 500, 50]) == 5
    assert report.ratio(LIFE, [10, 10], [50, 50, 500]) == 5


def test_more_is_better_where_the_unit_is_a_rate() -> None:
    assert report.ratio(EIGHT, [100], [10]) == pytest.approx(10)
    assert report.ratio(LIFE, [100], [10]) == pytest.approx(0.1)


def test_a_row_says_whether_each_of_its_goals_is_met() -> None:
    assert GOALS[LIFE].budget == 10
    assert report.table({LIFE: {"bulkhead": [9.0], "dockerd": [90.0]}}).endswith("dockerd 90 (10.0x) | yes, no |")
    assert report.table({EIGHT: {"bulkhead": [130.0], "dockerd": [10.0]}}).endswith("dockerd 10 (13.0x) | yes, yes |")


def test_points_of_a_slope_are_left_to_the_file() -> None:
    samples = {f"start, {report.DETAIL}10 containers [ms]": {"bulkhead": [1.0]}, "inspect [ms]": {"bulkhead": [2.0]}}
    assert len(report.table(samples).splitlines()) == 3


def test_points_of_slopes_are_drawn_as_lines(tmp_path: Path) -> None:
    samples = {f"start, {report.DETAIL}{size} networks [ms]": {"bulkhead": [size / 10]} for size in (10, 100)}
    assert report.lines(samples) == {"networks": {("start", "bulkhead"): [(10, 1.0), (100, 10.0)]}}
    report.plot_slopes(samples, tmp_path / "slopes.png")
    assert (tmp_path / "slopes.png").read_bytes().startswith(b"\x89PNG")


def test_patience_cuts_rounds_but_not_the_least_of_them() -> None:
    with contextlib.ExitStack() as stack:
        hasty = Sitting(quick=False, peers=False, stack=stack, patience=0)
        assert list(hasty.rounds(30, 2)) == [0, 1]
        assert list(Sitting(quick=False, peers=False, stack=stack).rounds(30, 2)) == list(range(30))
        assert list(Sitting(quick=True, peers=False, stack=stack, patience=0).rounds(30, 2)) == [0, 1]


def test_a_slope_has_no_ratio() -> None:
    samples = {f"start, {report.SLOPE}1,000 networks [ms]": {"bulkhead": [-1.0], "dockerd": [2.0]}}
    assert report.table(samples).endswith("| dockerd 2 |  |")
