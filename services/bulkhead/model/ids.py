"""Ids of containers and execs: 64 hex digits, of which the first twelve already name the object.

The run directory, the default hostname and most users use the short form, so a new id never shares it with
another one of the instance (`new_id` takes what is taken) and is never all decimal: a hostname of digits is
mistaken for a number by many programs.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Container, Sequence

SHORT_LENGTH = 12
_FULL = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{1,64}")
_AFTER_DIGITS = "g"


def short(full: str) -> str:
    """The first twelve digits."""
    return full[:SHORT_LENGTH]


def is_full(text: str) -> bool:
    """Whether `text` is a whole id."""
    return _FULL.fullmatch(text) is not None


def new_id(taken: Container[str] = frozenset()) -> str:
    """A fresh random id whose short form is not in `taken`."""
    while True:
        candidate = os.urandom(32).hex()
        name = short(candidate)
        if not name.isdecimal() and name not in taken:
            return candidate


def new_exec_id(container_id: str, taken: Container[str] = frozenset()) -> str:
    """One that ends with the container's short form, so that whoever has it finds the container's shim."""
    return new_id(taken)[:-SHORT_LENGTH] + short(container_id)


def container_of(exec_id: str) -> str:
    """The short form of the container's id, if the exec is of this release."""
    return exec_id[-SHORT_LENGTH:]


def with_prefix(prefix: str, in_order: Sequence[str]) -> Sequence[str]:
    """The ids of a sorted sequence that begin with `prefix`; none when it is no string of hex digits."""
    if _PREFIX.fullmatch(prefix) is None:
        return ()
    return in_order[bisect_left(in_order, prefix) : bisect_left(in_order, prefix + _AFTER_DIGITS)]
