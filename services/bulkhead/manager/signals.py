"""Signals as clients write them: TERM, SIGTERM, 15, RTMIN+3."""

from __future__ import annotations

import re
import signal

from bulkhead.errors import InvalidArgument

_HIGHEST = 64


def parse_signal(text: str, default: signal.Signals = signal.SIGTERM) -> int:
    """The number that `text` means; `default` when it is empty. Raises InvalidArgument with Docker's text."""
    if not text:
        return int(default)
    number = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else _named(text.upper().removeprefix("SIG"))
    if number > _HIGHEST:
        raise InvalidArgument(f"The linux daemon does not support signal {number}")
    if number < 1:
        raise InvalidArgument(f"Invalid signal: {text}")
    return number


def _named(name: str) -> int:
    match = re.fullmatch(r"RT(MIN|MAX)([+-][0-9]{1,2})?", name)
    if match is not None:
        base = signal.SIGRTMIN if match[1] == "MIN" else signal.SIGRTMAX
        number = base + int(match[2] or 0)
        return number if signal.SIGRTMIN <= number <= signal.SIGRTMAX else 0
    known = signal.Signals.__members__.get(f"SIG{name}")
    return int(known) if known is not None else 0
