"""Docker's filters of images, and Go's globs."""

from __future__ import annotations

import time

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.manager.images import filters
from bulkhead.model.filters import boolean, check_keys
from bulkhead.model.reference import parse_reference


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("busybox", "busybox:latest", True),
        ("busybox:latest", "busybox:latest", True),
        ("busy*", "busybox:latest", True),
        ("*", "busybox:latest", True),
        ("*", "team/app:v1", False),
        ("*/*", "team/app:v1", True),
        ("*/app:v?", "team/app:v1", True),
        ("busybox:v[0-9]", "busybox:v3", True),
        ("busybox:v[^0-9]", "busybox:v3", False),
        ("busybox:v[a-c3]", "busybox:v3", True),
        ("localhost:5000/*", "localhost:5000/app:v1", True),
        ("box", "busybox:latest", False),
        ("busybo\\x", "busybox:latest", True),
        ("busybox:*.1", "busybox:1.1", True),
        ("busybox:1.1", "busybox:121", False),
        ("*a*b*:*", "xaxbx:latest", True),
        ("*ab", "aab:v1", True),
        ("a*a", "aba:v1", True),
        ("*/*p:*1", "team/app:v1.1", True),
    ],
)
def test_globs_are_those_of_gos_path_match(pattern: str, name: str, fits: bool) -> None:
    assert filters.name_fits(pattern, parse_reference(name)) is fits


@pytest.mark.parametrize("pattern", ["[", "[]", "[z-a]", "a\\", "[^]", "x[a"])
def test_broken_globs_are_refused(pattern: str) -> None:
    with pytest.raises(InvalidArgument, match="syntax error in pattern"):
        filters.name_fits(pattern, parse_reference("busybox"))


def test_stars_in_a_row_take_no_time() -> None:
    """A pattern comes from a client: it must not be able to stop the loop."""
    assert not filters.name_fits("*" * 5000 + "z", parse_reference("a" * 240))
    assert not filters.name_fits("*a" * 60 + "*z", parse_reference("a" * 200))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1700000000", 1_700_000_000 * 10**9),
        ("1700000000.5", 1_700_000_000 * 10**9 + 5 * 10**8),
        ("2026-01-02T03:04:05Z", 1_767_323_045 * 10**9),
        ("2026-01-02T04:04:05+01:00", 1_767_323_045 * 10**9),
        ("2026-01-02T03:04:05.000001Z", 1_767_323_045 * 10**9 + 1000),
        ("2026-01-02", 1_767_312_000 * 10**9),
    ],
)
def test_moments_are_times_of_several_forms(text: str, moment: int) -> None:
    assert filters.moment(text) == moment


def test_durations_lie_in_the_past() -> None:
    before = time.time_ns() - (90 * 60 + 1) * 10**9
    assert 0 <= filters.moment("1h30m1s") - before < 60 * 10**9


@pytest.mark.parametrize("text", ["", "soon", "1d", "-1h", "2026-13-01", "1e400", "9" * 50])
def test_other_texts_are_no_moments(text: str) -> None:
    with pytest.raises(InvalidArgument):
        filters.moment(text)


@pytest.mark.parametrize(
    ("text", "created"),
    [
        ("2026-01-01T00:00:00Z", 1_767_225_600 * 10**9),
        ("2026-01-01T00:00:00.123456789Z", 1_767_225_600 * 10**9 + 123_456_000),
        ("0001-01-01T00:00:00Z", 0),
        ("", 0),
        ("nonsense", 0),
        ("1969-12-31T23:59:59Z", 0),
        ("9999-12-31T23:59:59-23:00", 2**63 - 1),
    ],
)
def test_time_of_an_image_is_never_an_error(text: str, created: int) -> None:
    """Builders write all sorts of times; an image is not refused for its date."""
    assert filters.created(text) == created


@pytest.mark.parametrize(("value", "meaning"), [("1", True), ("true", True), ("0", False), ("FALSE", False)])
def test_booleans_have_dockers_forms(value: str, meaning: bool) -> None:
    assert boolean({"dangling": [value]}, "dangling") is meaning


def test_unknown_filters_and_values_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="Invalid filter 'x'"):
        check_keys({"x": ["1"]}, filters.OF_LIST)
    with pytest.raises(InvalidArgument, match="Invalid filter 'dangling=\\[maybe\\]'"):
        boolean({"dangling": ["maybe"]}, "dangling")
    with pytest.raises(InvalidArgument):
        filters.until({"until": ["1h", "2h"]})
    assert boolean({}, "dangling") is None
