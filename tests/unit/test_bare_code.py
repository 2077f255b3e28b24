"""Code without texts and columns does what it did, and says on which line."""

from __future__ import annotations

import asyncio.base_events
import inspect
import json.decoder
import traceback
from types import CodeType, ModuleType

import aiohttp.web_request
import pytest

from bulkhead.bare_code import bare

SOURCE = '''"""Of the module."""
class Noted:
    """Of the class."""
    text = "Of the class, too."
class Bare:
    pass
def noted():
    """Of the function."""
    return "value"
def doubled():
    """Said twice."""
    return "Said twice."
def fails(value):
    """Far down."""


    return (value
        +
        1)
'''


def scope() -> dict[str, object]:
    found: dict[str, object] = {"__name__": "sample"}
    exec(bare(compile(SOURCE, "sample.py", "exec")), found)  # noqa: S102
    return found


def test_texts_are_gone_and_their_places_are_not() -> None:
    """dataclasses works a text out for each class that has none."""
    found = scope()
    assert [found["__doc__"], found["Noted"].__doc__, found["noted"].__doc__] == ["-"] * 3
    assert found["Bare"].__doc__ is None


def test_what_is_used_as_a_value_stays() -> None:
    found = scope()
    assert [found["noted"](), found["doubled"](), found["Noted"].text] == [  # type: ignore[attr-defined,operator]
        "value",
        "Said twice.",
        "Of the class, too.",
    ]


def test_a_traceback_tells_the_line_and_no_column() -> None:
    with pytest.raises(TypeError) as caught:
        scope()["fails"]("")  # type: ignore[operator]
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.filename, last.lineno, last.colno) == ("sample.py", 17, None)


@pytest.mark.parametrize("module", [asyncio.base_events, json.decoder, aiohttp.web_request, inspect])
def test_every_instruction_of_real_modules_keeps_its_line(module: ModuleType) -> None:
    code = compile(inspect.getsource(module), str(module.__file__), "exec", dont_inherit=True)
    assert _same(code, bare(code)) > 10


def _same(code: CodeType, short: CodeType) -> int:
    """How many functions are the same but for what should not be."""
    assert [line for line, *_ in code.co_positions()] == [line for line, *_ in short.co_positions()]
    assert {column for _, _, *columns in short.co_positions() for column in columns} == {None}
    assert (code.co_code, code.co_exceptiontable) == (short.co_code, short.co_exceptiontable)
    pairs = [*zip(code.co_consts, short.co_consts, strict=True)]
    assert all(before == after or after == "-" for before, after in pairs if not isinstance(before, CodeType))
    return 1 + sum(_same(before, after) for before, after in pairs if isinstance(before, CodeType))
