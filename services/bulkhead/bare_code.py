"""Compiled code without what only people read: texts of documentation, and columns within lines.

A service keeps both in memory for each function that it has loaded, and never looks at them: 2 MB of each service's
memory. What a traceback tells stays: files, functions and lines, but not which part of a line.
"""

from __future__ import annotations

import dis
import inspect
from itertools import pairwise
from types import CodeType

# Where a text was there is one still, as dataclasses and others want to see; this one takes no memory.
_WORDLESS = "-"
# Objects/locations.md of CPython 3.11: a byte for up to eight units of two bytes of code, and the step to their line.
_UNIT, _MOST_UNITS = 2, 8
_ENTRY, _NO_COLUMNS, _NO_LINE = 0x80, 13 << 3, 15 << 3
_ANOTHER_SIX_BITS = 0x40
_LOAD, _STORE = dis.opmap["LOAD_CONST"], dis.opmap["STORE_NAME"]
# Python 3.12 and 3.13 return a constant without loading it.
_RETURN = dis.opmap.get("RETURN_CONST", _LOAD)


def bare(code: CodeType) -> CodeType:
    """The same, and so are the functions in it."""
    inner = [bare(each) if isinstance(each, CodeType) else each for each in code.co_consts]
    for position in _texts(code):
        inner[position] = _WORDLESS
    done = code.replace(co_consts=tuple(inner))
    short = done.replace(co_linetable=_lines(done))
    # An interpreter that writes them in another way keeps what it has.
    return short if [*short.co_lines()] == [*code.co_lines()] else done


def _texts(code: CodeType) -> list[int]:
    """Which constants are documentation and nothing else."""
    steps = [*zip(code.co_code[::_UNIT], code.co_code[1::_UNIT], strict=True)]
    if code.co_flags & inspect.CO_OPTIMIZED:
        # A function's own comes first, and nothing loads it.
        found = [0] if code.co_consts and not {(_LOAD, 0), (_RETURN, 0)}.intersection(steps) else []
    else:
        found = [argument for _, argument in _kept_as_doc(code, steps) if steps.count((_LOAD, argument)) == 1]
    return [position for position in found if isinstance(code.co_consts[position], str)]


def _kept_as_doc(code: CodeType, steps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What a module or a class does to have one."""
    if "__doc__" not in code.co_names:
        return []
    stored = _STORE, code.co_names.index("__doc__")
    return [load for load, store in pairwise(steps) if store == stored and load[0] == _LOAD]


def _lines(code: CodeType) -> bytes:
    table = bytearray()
    before = code.co_firstlineno
    for begin, end, line in code.co_lines():
        left = (end - begin) // _UNIT
        while left:
            units = min(left, _MOST_UNITS)
            table.append(_ENTRY | (_NO_LINE if line is None else _NO_COLUMNS) | units - 1)
            if line is not None:
                table += _signed(line - before)
                before = line
            left -= units
    return bytes(table)


def _signed(number: int) -> bytes:
    """Six bits at a time, the lowest first; the sign is the lowest bit of all."""
    rest = -number << 1 | 1 if number < 0 else number << 1
    written = bytearray()
    while rest >= _ANOTHER_SIX_BITS:
        written.append(_ANOTHER_SIX_BITS | rest & _ANOTHER_SIX_BITS - 1)
        rest >>= 6
    written.append(rest)
    return bytes(written)
