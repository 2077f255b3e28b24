"""What the command puts in the place of modules of the standard library does what ours do with the real ones."""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bulkhead.runtime.command import lean, standins


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
    said = light(
        "from bulkhead.runtime.command import execs, foreground, lifecycle;"
        "print([n for n in ('ast', 'asyncio', 'msgspec', 'dis', 'selectors', '_hashlib', 'subprocess', 'enum',"
        " 'signal', 'functools', 'collections', 'pathlib', 'threading', 'importlib', 're', 'json', 'typing',"
        " 'ipaddress')"
        " if getattr(sys.modules.get(n), '__file__', None)])"
    )
    assert said == "[]\n"


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


def light(script: str) -> str:
    """What `script` prints in an interpreter of its own that has been made light."""
    begun = "import sys; from bulkhead.runtime.command.lean import lighten; lighten();"
    done = subprocess.run(
        [sys.executable, "-IS", "-c", f"import sys; sys.path = {sys.path!r}; {begun}\n{script}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_waits_becomes_the_real_module() -> None:
    said = light(
        "import re; pattern = re.compile('a+'); waits = getattr(sys.modules['re'], '__file__', None) is None;"
        "from pathlib import Path; from typing import NamedTuple; from urllib.parse import quote_from_bytes;"
        "print(waits, pattern.fullmatch('aa').end(), re.sub('a', 'b', 'a'), quote_from_bytes(b'a b'),"
        " Path('/a b').as_uri())"
    )
    assert said == "True 2 b a%20b file:///a%20b\n"


def test_others_than_our_modules_find_the_real_ones() -> None:
    said = light(
        "import enum, signal, bulkhead.runtime.state;"
        "import http, ipaddress, tempfile, logging;"
        "print(http.HTTPStatus(200).name, bulkhead.runtime.state.Status('paused').name, signal.SIGTERM,"
        " signal.Signals(15).name, enum.Enum is sys.modules['enum'].Enum)"
    )
    assert said == "OK PAUSED 15 SIGTERM False\n"


@pytest.mark.parametrize("module", [enum, standins.modules()["enum"]])
def test_enumerations(module: Any) -> None:
    class Word(module.Enum):  # type: ignore[misc]
        ONE = "one"
        TWO = "two"

    class Number(module.IntEnum):  # type: ignore[misc]
        NONE = 0
        ONE = 1

    class Bits(module.IntFlag):  # type: ignore[misc]
        NONE = 0
        LOW = 1
        HIGH = 2

    assert Word("two") is Word.TWO and Word.ONE is not Word.TWO and Word.ONE != "one"
    assert (Word.TWO.name, Word.TWO.value) == ("TWO", "two") and list(Word.__members__) == ["ONE", "TWO"]
    assert Number(1) is Number.ONE and Number.ONE == 1 and f"{Number.ONE}" == "1"
    both = Bits.LOW | Bits.HIGH
    assert (
        both == 3
        and both & Bits.HIGH
        and Bits.HIGH in Bits(both)
        and not both & ~both
        and (both ^ Bits.LOW) is Bits.HIGH
    )
    assert isinstance(both, Bits) and Bits(0) is Bits.NONE and isinstance(1 | Bits.HIGH, Bits)
    assert struct.pack("<Q", both) == struct.pack("<Q", 3) and {Bits.LOW: 1}[Bits(1)] == 1
    for kind, value in ((Word, "three"), (Number, 7)):
        with pytest.raises(ValueError, match=f"{value!r} is not a valid .*{kind.__name__}"):
            kind(value)


@pytest.mark.parametrize("module", [functools, standins.modules()["functools"]])
def test_functions(module: Any) -> None:
    asked = []

    @module.cache  # type: ignore[untyped-decorator]
    def doubled(number: int) -> int:
        """Twice."""
        asked.append(number)
        return 2 * number

    assert [doubled(2), doubled(2), doubled(3)] == [4, 4, 6] and asked == [2, 3]
    doubled.cache_clear()
    assert (doubled(2), asked, doubled.__name__, doubled.__doc__) == (4, [2, 3, 2], "doubled", "Twice.")


@pytest.mark.parametrize("module", [functools, standins.modules()["functools"]])
def test_functions_that_keep_little(module: Any) -> None:
    asked = []

    @module.lru_cache(maxsize=1)  # type: ignore[untyped-decorator]
    def doubled(number: int) -> int:
        asked.append(number)
        return 2 * number

    assert [doubled(2), doubled(2), doubled(3), doubled(2)] == [4, 4, 6, 4] and asked == [2, 3, 2]


@pytest.mark.parametrize("kind", [Path, standins.Path])
def test_paths(kind: Any, tmp_path: Path) -> None:
    place = kind(str(tmp_path), "a") / "b"
    assert str(place) == os.fspath(place) == f"{tmp_path}/a/b" and not place.exists()
    (tmp_path / "a").mkdir()
    assert place.write_text("text") == 4
    assert (place.read_text(), place.read_bytes(), place.stat().st_size) == ("text", b"text", 4)
    assert place.exists() and not place.is_dir() and kind(tmp_path).is_dir() and place.samefile(tmp_path / "a" / "b")
    place.unlink()  # which a real one does
    assert not place.exists()
    with pytest.raises(FileNotFoundError, match=re.escape(str(place))):
        place.read_text()


def test_a_digest_is_the_real_ones() -> None:
    digest = standins.modules()["hashlib"].sha256(b"a").hexdigest()
    assert digest == hashlib.sha256(b"a").hexdigest()


def test_a_python_without_its_own_sha256_has_openssls() -> None:
    """As Red Hat's is built."""
    program = (
        "import sys; sys.modules['_sha256'] = sys.modules['_sha2'] = None\n"
        "from bulkhead.runtime.command import standins\n"
        "hashlib = standins.modules()['hashlib']\n"
        "print(hashlib.sha256(b'x').hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(b"x").hexdigest()
