"""Names and numbers of signals, as `--stop-signal` and `kill` take them."""

from __future__ import annotations

import signal

from bulkhead.errors import InvalidArgument

_LAST = 64


def check_signal(text: str) -> None:
    """Raise InvalidArgument, in Docker's words, for what names no signal (`SIGKILL`, `kill`, `9`, `RTMIN+3`)."""
    if text.isascii() and text.isdigit() and len(text) <= 9 and int(text) > _LAST:
        raise InvalidArgument(f"The linux daemon does not support signal {int(text)}")
    if not _is_signal(text):
        raise InvalidArgument(f"Invalid signal: {text}")


def _is_signal(text: str) -> bool:
    if text.isascii() and text.isdigit():
        return len(text) <= 3 and 0 < int(text) <= _LAST
    name = text.upper().removeprefix("SIG")
    base, sign, offset = name.partition("+") if "+" in name else name.partition("-")
    if base in ("RTMIN", "RTMAX"):
        return not sign or (offset.isascii() and offset.isdigit() and 0 < int(offset) <= 30)
    return f"SIG{name}" in signal.Signals.__members__
