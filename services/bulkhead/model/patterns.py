"""Regular expressions of strangers. Go's engine runs any of them in linear time, Python's may take for ever: what one
request looks for has a budget.

Memory has a bound as well: the engine writes counted repetitions out.
"""

from __future__ import annotations

import math
import re
import time
from typing import TYPE_CHECKING

from bulkhead.errors import InvalidArgument

if TYPE_CHECKING:
    from regex import Pattern

LONGEST = 4096
BUDGET_SECONDS = 0.25  # of a processor, as the engine counts
_MOST_WRITTEN_OUT = 500_000
_SPECIAL = frozenset(r"\.^$*+?{[(|")
_COUNT = re.compile(r"\{([0-9]*),?([0-9]*)")
# Free spacing, which Go does not have, would hide counts.
_FREE_SPACING = re.compile(r"\(\?[a-zA-Z]*x")
_UNREADABLE = (re.error, ValueError, OverflowError, RecursionError, MemoryError)


class Search:
    """What one request looks for, and the time that is left for all of it."""

    def __init__(self) -> None:
        self._left = BUDGET_SECONDS
        self._read: dict[str, Pattern[str] | None] = {}  # None: plain text

    def prepare(self, pattern: str) -> None:
        """Raise InvalidArgument for a pattern that is too costly."""
        if pattern in self._read:
            return
        if len(pattern) <= LONGEST and _SPECIAL.isdisjoint(pattern):
            self._read[pattern] = None
            return
        import regex  # noqa: F401  # only for those who need it, and not in their time

        began = time.thread_time()
        self._read[pattern] = _expression(pattern)
        self._left -= time.thread_time() - began

    def finds(self, pattern: str, text: str) -> bool:
        """Whether `pattern` is somewhere in `text`, literally when it is no regular expression.

        Raises InvalidArgument once all that this request looked for has taken too long.
        """
        self.prepare(pattern)
        expression = self._read[pattern]
        if expression is None:
            return pattern in text
        if self._left <= 0:
            raise _too_long(pattern)
        began = time.thread_time()
        try:
            return expression.search(text, timeout=self._left) is not None
        except (TimeoutError, MemoryError) as error:
            self._left = 0  # the engine counts other threads' time as well: by this one's, some would be left
            raise _too_long(pattern) from error
        finally:
            self._left -= time.thread_time() - began


def check(pattern: str) -> None:
    """Raise InvalidArgument unless it is a regular expression, and none that is too costly."""
    try:
        _read(pattern)
    except _UNREADABLE as error:
        raise InvalidArgument(f"error parsing regexp: {error}: `{pattern[:60]}`") from error


def _too_long(pattern: str) -> InvalidArgument:
    return InvalidArgument(f"invalid pattern: {pattern[:60]!r} takes too long")


def _expression(pattern: str) -> Pattern[str] | None:
    """None when it is none."""
    try:
        return _read(pattern)
    except _UNREADABLE:
        return None


def _read(pattern: str) -> Pattern[str]:
    if len(pattern) > LONGEST or _written_out(pattern) > _MOST_WRITTEN_OUT:
        raise InvalidArgument(f"invalid pattern: {pattern[:60]!r} repeats too much to be looked for")
    if _FREE_SPACING.search(pattern):
        raise ValueError("free spacing is not known")
    # What only the other engine knows is not taken: a recursion eats memory faster than time.
    re.compile(pattern)
    import regex

    try:
        return regex.compile(pattern, cache_pattern=False)
    except regex.error as error:
        raise ValueError(str(error)) from error


def _written_out(pattern: str) -> int:
    """No less than the characters that it has with every counted repetition written out, however they are nested."""
    return len(pattern) * math.prod(max(1, *(int(each or 0) for each in count)) for count in _COUNT.findall(pattern))
