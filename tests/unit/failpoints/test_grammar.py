from __future__ import annotations

import errno

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.failpoints.catalogue import POINTS
from bulkhead.failpoints.grammar import Action, Term, due, parse

KILL = "manager.start.plugged"
DISK = "disk.file.sync"


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("kill", (Term(action=Action.KILL),)),
        ("1*off->2*stop", (Term(action=Action.OFF, count=1), Term(action=Action.STOP, count=2))),
        ("delay(20)", (Term(action=Action.DELAY, argument=20),)),
        (" 3*print -> kill ", (Term(action=Action.PRINT, count=3), Term(action=Action.KILL))),
    ],
)
def test_terms(text: str, terms: tuple[Term, ...]) -> None:
    assert parse(f"{KILL}={text}") == {KILL: terms}


@pytest.mark.parametrize("text", ["error(ENOSPC)", "return(ENOSPC)", f"error({errno.ENOSPC})"])
def test_errors(text: str) -> None:
    assert parse(f"{DISK}={text}")[DISK] == (Term(action=Action.ERROR, argument=errno.ENOSPC),)


def test_patterns_and_several() -> None:
    found = parse("*=print; disk.file.*=error(EIO)\nmanager.start.begun=off")
    assert set(found) == set(POINTS)
    assert found["disk.file.rename"][0].action is Action.ERROR
    assert found["disk.blob.rename"][0].action is Action.PRINT
    assert found["manager.start.begun"][0].action is Action.OFF


@pytest.mark.parametrize(
    "text",
    [
        *("manager.start.plugged", "nobody=kill", f"{KILL}=die", f"{KILL}=error(EIO)", f"{KILL}=kill(3)"),
        *(f"{DISK}=error", f"{DISK}=error(ENOTHING)", f"{DISK}=error(strerror)", f"{KILL}=delay", f"{KILL}=delay(x)"),
        *(f"{KILL}=x*kill", f"{KILL}=", f"{KILL}=kill->", f"{KILL}=delay(999999999)", "*=error(EIO)"),
    ],
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse(text)


def test_terms_take_turns() -> None:
    terms = parse(f"{KILL}=2*off->1*kill->1*stop")[KILL]
    turns = [due(terms, number) for number in range(5)]
    assert [None if each is None else each.action for each in turns] == [
        *(Action.OFF, Action.OFF, Action.KILL, Action.STOP, None)
    ]
