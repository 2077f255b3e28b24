"""A client's pattern must not keep the manager busy (the battery's M23)."""

from __future__ import annotations

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.model.patterns import compiled

TEXT = "/" + "a" * 64 + "_"


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|a)*$",
        "(a*)*$",
        "((a|b)c?)+$",
        "(?:a+){2,}$",
        "(a{1,9}){1,9}$",
        ".*.*.*.*x",
        "a*" * 20,
        "x" * 65536,
    ],
)
def test_what_backtracks_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidArgument):
        compiled(pattern)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("^/web.*-1$", "/web_x-1"),
        (".*web.*", "/my-web-1"),
        ("^/(web|db)$", "/db"),
        ("[(a+)+]", "+"),
        (r"\(a+\)+", "(aa)"),
        ("^/[a-z]+_[0-9]+$", "/web_12"),
        ("(ab){2}", "abab"),
        ("a(", "a("),
        ("[", "x[y"),
        ("a{,", "a{,"),
    ],
)
def test_what_people_look_for_is_found(pattern: str, text: str) -> None:
    assert compiled(pattern).search(text)


def test_the_worst_that_is_let_through_ends() -> None:
    assert compiled("a*a*a*$x").search(TEXT) is None
