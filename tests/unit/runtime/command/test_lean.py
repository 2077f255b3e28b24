"""What the command puts in the place of `dataclasses` does what ours do with the real one."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from types import ModuleType

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
        "print([n for n in ('ast', 'asyncio', 'msgspec', 'dis', 'selectors', '_hashlib', 'subprocess')"
        " if getattr(sys.modules.get(n), '__file__', None)])"
    )
    done = subprocess.run(
        [sys.executable, "-IS", "-c", f"import sys; sys.path = {sys.path!r}; {script}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
