"""What containers and versions may be called. Sets of letters: regular expressions cost a command their module."""

from __future__ import annotations

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_ID = frozenset(f"{_LETTERS}{_LETTERS.upper()}0123456789_+.-")


def is_container_id(text: str) -> bool:
    """Whether it is one, and cannot lead out of a directory."""
    return bool(text) and _ID.issuperset(text) and text not in (".", "..")


def is_version(text: str) -> bool:
    """Whether it is 1.x.y, with what may follow (semver.org)."""
    numbers = text.replace("+", "-").partition("-")[0].split(".")
    return len(numbers) == 3 and numbers[0] == "1" and all(one.isascii() and one.isdigit() for one in numbers)
