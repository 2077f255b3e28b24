"""What is still runs as before, and is written to no more."""

from __future__ import annotations

import ctypes
import sys
import textwrap
import types
from typing import Any

import pytest

from bulkhead.supervisor import stillness

pytestmark = pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="knows one interpreter")

_SOURCE = """
def cold(x):
    return x.real + 1

def warm(values):
    total, names = 0, {}
    for value in values:
        total += value
        names[value] = str(value)
    (first, *_), rest = sorted(names), len(names)
    return total, first, rest, [each.upper() for each in names.values()]

class Thing:
    __slots__ = ("kept",)
    def __init__(self, kept):
        self.kept = kept
    def double(self):
        return self.kept * 2
"""


def _module() -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    exec(textwrap.dedent(_SOURCE), namespace)  # noqa: S102 -- code that nobody else has run
    return namespace


def _content(code: types.CodeType) -> bytes:
    """All of it but the reference count."""
    return ctypes.string_at(id(code) + 8, sys.getsizeof(code) - 8)


def _use(names: dict[str, Any]) -> list[object]:
    return [
        names["cold"](1),
        names["warm"]([1, 2, 3]),
        names["warm"]((1.5, 2, 2)),
        names["warm"]({"7": 1}.values()),
        [names["Thing"](kept).double() for kept in (1, "a", [2])],
    ]


def test_this_interpreter_is_known() -> None:
    assert stillness.is_known()


@pytest.mark.parametrize("rounds", [0, 1, 9, 30])
def test_still_code_runs_as_before_and_is_not_written_to(rounds: int) -> None:
    names = _module()
    for _ in range(rounds):
        _use(names)
    expected = _use(_module())
    assert stillness.still_code() > 0
    codes = [names["cold"].__code__, names["warm"].__code__, names["Thing"].double.__code__]
    before = [_content(code) for code in codes]
    assert _use(names) == expected
    if not rounds:
        # What was specialised may still find that it was so in vain.
        for _ in range(100):
            assert _use(names) == expected
        assert [_content(code) for code in codes] == before


def test_holes_are_filled_for_as_long_as_somebody_holds_what_fills_them() -> None:
    scattered = [bytes(100) for _ in range(5000)]
    del scattered[::2]
    holes = {id(each) // stillness._POOL for each in scattered}
    kept = stillness.fill_holes()
    assert kept
    made = [bytes(100) for _ in range(300)]
    assert not holes & {id(each) // stillness._POOL for each in made}
    del kept
