"""One loss for each kind, however many deaths there were: a record of them must not grow."""

from __future__ import annotations

import pytest

from bulkhead.model.losses import Loss, joined, restated

EARLY = Loss(what="log", since=10, until=20)
LATE = Loss(what="log", since=30, until=40)
COUNTED = Loss(what="log", since=5, until=50, lines=3)


@pytest.mark.parametrize(
    ("one", "other", "since", "until"),
    [
        (EARLY, LATE, 10, 40),
        (LATE, EARLY, 10, 40),
        (EARLY, Loss(what="log", since=15, until=18), 10, 20),
        # Nobody knows when it began, or it has not ended.
        (EARLY, Loss(what="log", until=40), 10, 40),
        (Loss(what="log"), Loss(what="log"), 0, 0),
        (EARLY, Loss(what="log", since=30), 10, 0),
        (Loss(what="log", since=30), EARLY, 10, 0),
    ],
)
def test_windows_are_widened(one: Loss, other: Loss, since: int, until: int) -> None:
    expected = (Loss(what="log", since=since, until=until),)
    assert joined((one,), (other,)) == restated((one,), (other,)) == expected


def test_only_like_is_joined_with_like() -> None:
    terminal = Loss(what="terminal", since=1)
    assert joined((EARLY,), (terminal, COUNTED)) == (EARLY, terminal, COUNTED)


def test_lines_are_added_once() -> None:
    more = Loss(what="log", since=60, until=70, lines=4)
    both = Loss(what="log", since=5, until=70, lines=7)
    assert joined((COUNTED,), (more,)) == (both,)
    assert restated((COUNTED,), (both,)) == restated((both,), (both,)) == (both,)


def test_a_statement_that_knows_less_takes_nothing_back() -> None:
    assert restated((EARLY, COUNTED), (LATE,)) == (Loss(what="log", since=10, until=40), COUNTED)


def test_a_statement_of_many_of_a_kind_is_one_of_them_all() -> None:
    assert restated((), [COUNTED] * 3) == (Loss(what="log", since=5, until=50, lines=9),)
