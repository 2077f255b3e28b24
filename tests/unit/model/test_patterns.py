"""A client's pattern must not keep the manager busy, nor eat its memory (the battery's M23)."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.model.patterns import BUDGET_SECONDS, Search, check

TEXTS = ("/" + "a" * 64 + "_", "a" * 60, "a" * 1000, "/" + "a" * 255)


@pytest.mark.timeout(60)
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
        ".*.*.*=",
        "a*a*a*$x",
        "a*" * 20,
        "(a+)(?#x)+$",
        "(?x)(a+) +$",
        "a?" * 40 + "a" * 40,
        "(?:a?){40}a{40}",
        "(?:a|a)" * 40 + "$",
        "(?=(a+)+x)",
        "(?R)?a",
    ],
)
def test_what_backtracks_ends(pattern: str) -> None:
    """Answered or refused: the test's own time limit is the check."""
    search = Search()
    for text in TEXTS:
        try:
            search.finds(pattern, text)
        except InvalidArgument as error:
            assert str(error).endswith("takes too long")


def test_no_time_is_left_for_the_next_one() -> None:
    """The budget is the request's: neither another text nor another pattern has a new one."""
    search = Search()
    for pattern in ("(?:a|a)" * 40 + "$", "a+b"):
        with pytest.raises(InvalidArgument, match="takes too long"):
            search.finds(pattern, "/" + "a" * 255)
    assert search.finds("plain", "plain")
    assert BUDGET_SECONDS < 1


def test_the_engine_says_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts other threads' time as well: by this thread's own, some would be left for the next."""
    monkeypatch.setattr("bulkhead.model.patterns.time.thread_time", lambda: 0.0)
    test_no_time_is_left_for_the_next_one()


@pytest.mark.parametrize(
    "pattern",
    [
        "x" * 65536,
        "(?:(?:(?:ab?){1000}){1000}){1000}",
        "a{65535}" * 99,
        "(?:a{0,65535}){9}",
        "a{" + "9" * 4000 + "}",
    ],
)
def test_what_takes_memory_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidArgument, match="repeats too much"):
        Search().prepare(pattern)


@pytest.mark.parametrize("count", ["{10 0000000}", "{1#}\n0000000}"])
def test_no_count_is_hidden(count: str) -> None:
    """Free spacing is not read as such."""
    assert Search().finds(f"(?x)a{count}", f"(?x)a{count}")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("^/web.*-1$", "/web_x-1"),
        (".*web.*", "/my-web-1"),
        ("^/(web|db)$", "/db"),
        ("[(a+)+]", "+"),
        (r"\(a+\)+", "(aa)"),
        ("^/[a-z]+_[0-9]+$", "/web_12"),
        ("^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$", "0123abcd-0000-0000-0000-00000000000f"),
        ("(ab){2}", "abab"),
        ("web}", "web}"),
        ("a(", "a("),
        ("[", "x[y"),
        ("a{,", "a{,"),
        ("(?R)", "(?R)"),
        ("(" * 2000, "(" * 2001),
    ],
)
def test_what_people_look_for_is_found(pattern: str, text: str) -> None:
    assert Search().finds(pattern, text)


@pytest.mark.parametrize("pattern", ["(", "(" * 2000, "a{99999999999}", "(?R)", "(?x)a", "x" * 65536])
def test_what_is_no_expression(pattern: str) -> None:
    with pytest.raises(InvalidArgument, match=r"error parsing regexp|repeats too much"):
        check(pattern)


def test_plain_text_costs_no_engine() -> None:
    """Of whose memory a manager that nobody asks for more has none."""
    program = (
        "import sys; from bulkhead.model.patterns import Search; Search().finds('web_1', 'x'); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert re.search(r"\bbulkhead\.model\.patterns\b", done.stdout)
    assert "_regex" not in done.stdout
