"""The keys that detach a client from a terminal: `ctrl-p,ctrl-q` and the like. The shim listens for them."""

from __future__ import annotations

from bulkhead.errors import InvalidArgument

_CONTROLS = frozenset("abcdefghijklmnopqrstuvwxyz@[\\]^_")


def check_keys(text: str, kind: str = "detach") -> None:
    """Raise InvalidArgument, in Docker's words, for what is no sequence of keys; empty means the default."""
    for key in text.split(",") if text else ():
        control = key.removeprefix("ctrl-").lower()
        if len(key) == 1 and key.isascii():
            continue
        if not key.startswith("ctrl-") or control not in _CONTROLS:
            raise InvalidArgument(f"Invalid {kind} keys ({text}) provided")
