"""What the command puts in the place of `dataclasses` does what ours do with the real one."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from bulkhead.runtime.command import lean


def sample(module: ModuleType) -> type:
    @module.dataclass(frozen=True, slots=True, kw_only=True)
    class Sample:
        """With every kind of default."""

        number: int
        text: str = "t"
        table: dict[str, int] = module.field(default_factory=dict)
        hidden: int | None = module.field(default=None, repr=False)

    return Sample


@pytest.mark.parametrize("module", [dataclasses, lean._dataclasses()])
def test_construction_replacement_and_comparison(module: ModuleType) -> None:
    made = sample(module)
    one, other = made(number=1), made(number=1)
    assert (one.text, one.table, one.hidden) == ("t", {}, None)
    assert one == other
    assert one.table is not other.table
    changed = module.replace(one, number=2, table={"a": 1})
    assert changed != one
    assert module.asdict(changed) == {"number": 2, "text": "t", "table": {"a": 1}, "hidden": None}
    with pytest.raises(TypeError):
        made()
    with pytest.raises(TypeError):
        made(number=1, unknown=2)


def test_a_start_loads_neither_of_the_heavy_modules() -> None:
    """Else what it costs comes back unseen."""
    script = (
        "import sys; from bulkhead.runtime.command.lean import lighten; lighten();"
        "import bulkhead.runtime.command.lifecycle, bulkhead.runtime.command.foreground;"
        "print([n for n in ('ast', 'asyncio', 'msgspec', 'dis', 'selectors', '_hashlib', 'subprocess',"
        " 're', 'json', 'typing', 'ipaddress')"
        " if getattr(sys.modules.get(n), '__file__', None)])"
    )
    done = subprocess.run(
        [sys.executable, "-IS", "-c", f"import sys; sys.path = {sys.path!r}; {script}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "text",
    ['{"a": [1, -2.5, true, null, "\u00e9\\n"], "b": {}}', ' "x" \n', "[1e3]", "NaN", "{", "[1] 2", "", "\ufeff[]"],
)
def test_json_is_read_and_refused_as_by_the_real_one(text: str) -> None:
    lean_one = lean._json_module()
    for given in (text, text.encode()):
        try:
            wanted = json.loads(given)
        except ValueError as error:
            with pytest.raises(type(error)) as caught:
                lean_one.loads(given)
            assert str(caught.value) == str(error)
        else:
            assert repr(lean_one.loads(given)) == repr(wanted)


@pytest.mark.parametrize(
    "options", [{}, {"indent": 2}, {"sort_keys": True, "separators": (",", ":")}, {"ensure_ascii": False}]
)
def test_json_is_written_as_by_the_real_one(options: dict[str, Any]) -> None:
    value = {"z": [1, 2.5, None, True], "a": {"text": 'é"\n'}, "empty": [[], {}, ""]}
    assert lean._json_module().dumps(value, **options) == json.dumps(value, **options)
    with pytest.raises(TypeError, match="Object of type set is not JSON serializable"):
        lean._json_module().dumps({1})


def test_what_waits_becomes_the_real_module() -> None:
    script = (
        "import sys; from bulkhead.runtime.command.lean import lighten; lighten();"
        "import re; pattern = re.compile('a+'); waits = getattr(sys.modules['re'], '__file__', None) is None;"
        "from urllib.parse import quote_from_bytes; from pathlib import Path; from typing import NamedTuple;"
        "print(waits, pattern.fullmatch('aa').end(), re.sub('a', 'b', 'a'), quote_from_bytes(b'a b'),"
        " Path('/a b').as_uri())"
    )
    done = subprocess.run(
        [sys.executable, "-IS", "-c", f"import sys; sys.path = {sys.path!r}; {script}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True 2 b a%20b file:///a%20b\n"
