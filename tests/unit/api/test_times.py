"""Docker's spellings of times."""

from __future__ import annotations

import pytest

from bulkhead.api.schema.times import SECOND, ZERO, human, instant, rfc3339, rfc3339_fixed

MOMENT = 1_700_000_000 * SECOND


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, ZERO),
        (MOMENT, "2023-11-14T22:13:20Z"),
        (MOMENT + 120_000_000, "2023-11-14T22:13:20.12Z"),
        (MOMENT + 1, "2023-11-14T22:13:20.000000001Z"),
    ],
)
def test_go_drops_trailing_zeros(nanoseconds: int, text: str) -> None:
    assert rfc3339(nanoseconds) == text


def test_a_file_may_be_of_the_beginning_of_time() -> None:
    """As those of many images are: only what has never been is Go's zero."""
    assert instant(0) == "1970-01-01T00:00:00Z"
    assert instant(-SECOND) == "1969-12-31T23:59:59Z"


def test_stamps_of_logs_have_nine_digits() -> None:
    assert rfc3339_fixed(MOMENT) == "2023-11-14T22:13:20.000000000Z"


MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "Less than a second"),
        (0.9, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (MINUTE, "About a minute"),
        (2 * MINUTE, "2 minutes"),
        (59 * MINUTE, "59 minutes"),
        (HOUR, "About an hour"),
        (1.5 * HOUR, "2 hours"),
        (47 * HOUR, "47 hours"),
        (2 * DAY, "2 days"),
        (13 * DAY, "13 days"),
        (14 * DAY, "2 weeks"),
        (59 * DAY, "8 weeks"),
        (60 * DAY, "2 months"),
        (729 * DAY, "24 months"),
        (730 * DAY, "2 years"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert human(int(seconds * SECOND)) == text
