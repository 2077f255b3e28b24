"""Regular expressions of strangers. Go's engine runs any of them in linear time, Python's does not: what could keep it
busy for ever is refused."""

from __future__ import annotations

import re

from bulkhead.errors import InvalidArgument

LONGEST = 4096
# With so many repetitions side by side the work is a polynomial of that degree in the length of the text.
MOST_REPEATS = 3
_TOKEN = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\((?:\?[^)]{0,3}:)?|\)|\||[*+]|\{[0-9]*(?:,[0-9]*)?\}|.", re.DOTALL
)


def compiled(pattern: str) -> re.Pattern[str]:
    """`pattern`, taken literally when it is no regular expression. Raises InvalidArgument for a costly one."""
    check_cost(pattern)
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return re.compile(re.escape(pattern))


def check_cost(pattern: str) -> None:
    """Raise InvalidArgument for what could keep the machine busy for ever."""
    if len(pattern) > LONGEST or _is_costly(pattern):
        raise InvalidArgument(f"invalid pattern: {pattern[:60]!r} repeats too much to be looked for")


def _is_costly(pattern: str) -> bool:
    """Whether a repeated group holds a choice or another repetition, or too many repetitions follow each other."""
    repeats = 0
    loose = [False]  # of each open group: whether it can match in several ways
    closed = False  # whether the group that has just ended can
    for token in _TOKEN.findall(pattern):
        repeating = token in ("*", "+") or (token.startswith("{") and token.endswith("}") and len(token) > 2)
        if repeating:
            if closed:
                return True
            repeats += 1
            loose[-1] = True
        elif token == "|":
            loose[-1] = True
        elif token.startswith("("):
            loose.append(False)
        closed = token == ")" and len(loose) > 1 and loose.pop()
        if closed:
            loose[-1] = True
    return repeats > MOST_REPEATS
