"""What can be set, after FreeBSD's fail(9):

    <setting>  = <name>=<term>[-><term>...][;<setting>...]     a name may hold * and ?, for all that match
    <term>     = [<count>*]<action>
    <action>   = off | print | kill | stop | delay(<ms>) | error(<errno>) | return(<errno>)

Terms take turns: the first one's count of hits is its own, then comes the next; one without a count stays for ever,
and when all are used up nothing happens any more. `1*off->1*kill` kills at the second hit.
"""

from __future__ import annotations

import errno
import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from bulkhead.errors import InvalidArgument
from bulkhead.failpoints.catalogue import POINTS

_TERM = re.compile(r"(?:(\d{1,9})\*)?([a-z]+)(?:\(([A-Za-z0-9]{1,16})\))?")
_LONGEST_DELAY_MS = 600_000


class Action(Enum):
    """What a failpoint does; `print` only leaves its line in the trace."""

    OFF = "off"
    PRINT = "print"
    KILL = "kill"
    STOP = "stop"
    DELAY = "delay"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """`count` None is for ever; `argument` is milliseconds of a delay, the errno of an error."""

    action: Action
    count: int | None = None
    argument: int = 0


def parse(text: str) -> dict[str, tuple[Term, ...]]:
    """What is set for each name. Raises InvalidArgument for what is not in the grammar, or a name not in the list."""
    found: dict[str, tuple[Term, ...]] = {}
    for setting in filter(None, (each.strip() for each in re.split(r"[;\n]", text))):
        pattern, separator, terms = setting.partition("=")
        if not separator:
            raise InvalidArgument(f"cannot set failpoint {setting!r}: it is not <name>=<term>")
        parsed = tuple(_term(each, setting) for each in terms.split("->"))
        for name in _matching(pattern.strip(), parsed):
            found[name] = parsed
    return found


def due(terms: Sequence[Term], number: int) -> Term | None:
    """The term whose turn it is at hit `number`, counted from 0; None when all are used up."""
    for term in terms:
        if term.count is None or number < term.count:
            return term
        number -= term.count
    return None


def _matching(pattern: str, terms: Sequence[Term]) -> list[str]:
    names = fnmatch.filter(POINTS, pattern)
    if not names:
        raise InvalidArgument(f"cannot set failpoint {pattern}: there is none of this name")
    if any(term.action is Action.ERROR for term in terms):
        deaf = [name for name in names if not POINTS[name].fails]
        if deaf:
            raise InvalidArgument(f"cannot set failpoint {deaf[0]}: nothing can fail there, only kill, stop and delay")
    return names


def _term(text: str, setting: str) -> Term:
    match = _TERM.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(f"cannot set failpoint {setting!r}: {text!r} is not a term")
    count, word, argument = match.groups()
    try:
        action = Action("error" if word == "return" else word)
    except ValueError:
        raise InvalidArgument(f"cannot set failpoint {setting!r}: there is no action {word!r}") from None
    return Term(
        action=action, count=int(count) if count is not None else None, argument=_argument(action, argument, setting)
    )


def _argument(action: Action, text: str | None, setting: str) -> int:
    match action:
        case Action.DELAY if text is not None and text.isdecimal() and int(text) <= _LONGEST_DELAY_MS:
            return int(text)
        case Action.ERROR if text is not None and text.isdecimal() and int(text) in errno.errorcode:
            return int(text)
        case Action.ERROR if text is not None and isinstance(number := getattr(errno, text, None), int):
            return number
        case Action.DELAY | Action.ERROR:
            raise InvalidArgument(
                f"cannot set failpoint {setting!r}: {action.value}({text or ''}) has no such argument"
            )
        case _ if text is not None:
            raise InvalidArgument(f"cannot set failpoint {setting!r}: {action.value} takes no argument")
        case _:
            return 0
