"""What is lost of a container's run because of deaths or a broken disk: stated, never guessed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from operator import add


class Lost(Enum):
    """What can be; the values are on record and shown."""

    STDIN = "stdin"
    TERMINAL = "terminal"
    # Output that had been taken from the container and was not logged.
    LOG = "log"
    # Output that nobody can read any more.
    OUTPUT = "output"
    # What an external log receiver has not been sent.
    SHIPPED_LOG = "shipped log"
    # The exit code shown is not the process's own.
    EXIT_CODE = "exit code"
    EXEC_EXIT_CODE = "exec exit code"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A value of `Lost`, the window in Unix nanoseconds (0 is unknown), and how many lines of log, if that is known."""

    what: str
    since: int = 0
    until: int = 0
    lines: int = 0


def joined(known: Iterable[Loss], more: Iterable[Loss]) -> tuple[Loss, ...]:
    """All of them, one for each kind, however many there were: windows are widened, lines added up.

    Losses of counted lines are another kind than those that nobody could count.
    """
    return _merged((*known, *more), add)


def restated(known: Iterable[Loss], stated: Iterable[Loss]) -> tuple[Loss, ...]:
    """What is known once somebody has stated everything anew: nothing counts twice, nothing is taken back."""
    return _merged((*joined(known, ()), *joined(stated, ())), max)


def _merged(losses: Iterable[Loss], lines: Callable[[int, int], int]) -> tuple[Loss, ...]:
    found: dict[tuple[str, bool], Loss] = {}
    for loss in losses:
        kind = (loss.what, loss.lines > 0)
        before = found.get(kind)
        found[kind] = loss if before is None else _widened(before, loss, lines(before.lines, loss.lines))
    return tuple(found.values())


def _widened(one: Loss, other: Loss, lines: int) -> Loss:
    return Loss(
        what=one.what,
        since=min(one.since, other.since) or one.since or other.since,
        until=max(one.until, other.until) if one.until and other.until else 0,
        lines=lines,
    )
