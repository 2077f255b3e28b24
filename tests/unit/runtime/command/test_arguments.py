"""runc's spellings of options."""

from __future__ import annotations

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.runtime.command.arguments import LIST, NUMBER, SWITCH, TEXT, Options

OPTIONS = Options({"bundle b": TEXT, "force f": SWITCH, "preserve-fds": NUMBER, "env e": LIST})


@pytest.mark.parametrize("words", [["--bundle", "/x"], ["--bundle=/x"], ["-bundle", "/x"], ["-b", "/x"], ["-b=/x"]])
def test_a_value_in_every_spelling(words: list[str]) -> None:
    assert OPTIONS.parse([*words, "id"], mixed=True).text("bundle") == "/x"


def test_options_after_the_id_where_the_verb_allows_it() -> None:
    assert OPTIONS.parse(["id", "--force"], mixed=True).switch("force")
    found = OPTIONS.parse(["id", "ls", "--force"], mixed=False)
    assert (found.positional, found.switch("force")) == (["id", "ls", "--force"], False)


def test_the_double_dash_ends_options() -> None:
    assert OPTIONS.parse(["--", "--force"], mixed=True).positional == ["--force"]


def test_lists_numbers_and_switches_with_a_value() -> None:
    found = OPTIONS.parse(["-e", "A=1", "--env=B=2", "--preserve-fds", "3", "--force=false"], mixed=True)
    assert (found.texts("env"), found.number("preserve-fds"), found.switch("force")) == (["A=1", "B=2"], 3, False)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--nope"], "flag provided but not defined: -nope"),
        (["--bundle"], "flag needs an argument: -bundle"),
        (["--preserve-fds", "x"], 'invalid value "x" for flag -preserve-fds'),
        (["--force=perhaps"], 'invalid boolean value "perhaps" for -force'),
    ],
)
def test_what_is_wrong_is_said(words: list[str], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        OPTIONS.parse(words, mixed=True)
