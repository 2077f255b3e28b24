"""The bench's verdicts: what a ratio means, and when a goal is met."""

from __future__ import annotations

import pytest

from tests.bench import report
from tests.bench.budgets import GOALS

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
