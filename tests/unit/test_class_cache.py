"""Compiled code of dataclasses is found again, and nothing depends on it."""

from __future__ import annotations

import dataclasses
import marshal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bulkhead import class_cache


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the cache of the program "test" is."""
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    monkeypatch.setattr("sys.pycache_prefix", str(tmp_path))
    return class_cache._place("test")


def made() -> Any:
    """A class as good as any, made now."""

    @dataclass(frozen=True, slots=True, kw_only=True, order=True)
    class Point:
        x: int
        y: int = 2

    return Point


def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sources that are compiled by us from now on."""
    found: list[str] = []

    def noting(source: str, *arguments: Any) -> Any:
        found.append(source)
        return compile(source, *arguments)

    monkeypatch.setitem(vars(class_cache), "compile", noting)
    return found


def works(point: Any) -> bool:
    one = point(x=1)
    true = [one == point(x=1), one < point(x=2), repr(one).endswith("Point(x=1, y=2)"), hash(one) == hash(point(x=1))]
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.x = 2
    return all(true)


def test_what_was_compiled_once_is_not_compiled_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = compiled(monkeypatch)
    with class_cache.kept("test"):
        assert works(made())
    assert sources and place.exists()
    sources.clear()
    before = place.stat().st_mtime_ns
    with class_cache.kept("test"):
        assert works(made())
    assert not sources
    assert place.stat().st_mtime_ns == before, "nothing new, nothing written"
    assert works(made())
    assert not sources, "outside of the block it is Python's own affair"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"rubbish",
        class_cache._MAGIC,
        class_cache._MAGIC + b"rubbish",
        class_cache._MAGIC + marshal.dumps([1]),
        b"\0\0\0\0" + marshal.dumps({}),
    ],
    ids=["empty", "rubbish", "cut", "damaged", "another", "version"],
)
def test_a_file_of_no_use_is_replaced(place: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    with class_cache.kept("test"):
        assert works(made())
    sources = compiled(monkeypatch)
    with class_cache.kept("test"):
        assert works(made())
    assert not sources
    assert [each.name for each in place.parent.iterdir()] == [place.name]


def test_without_a_place_all_is_as_ever(place: Path) -> None:
    place.parent.parent.mkdir(parents=True, exist_ok=True)
    place.parent.write_text("no directory")
    with class_cache.kept("test"):
        assert works(made())


def test_python_told_to_write_nothing_is_obeyed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    with class_cache.kept("test"):
        assert works(made())
    assert not place.exists()
