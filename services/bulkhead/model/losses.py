"""What is lost of a container's run because of deaths or a broken disk: stated, never guessed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


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
