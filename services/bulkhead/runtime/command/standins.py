"""What stands in for modules of the standard library in a command that lives for milliseconds (see `lean`).

Each does what our modules ask of the real one, as the real one does it; tests hold them against each other.
"""

from __future__ import annotations

import os
import sys

from bulkhead.runtime.command.lean import Later, give_way

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any


def modules() -> dict[str, ModuleType]:
    """By name."""
    abstract = sys.modules["_collections_abc"]
    kinds = {name: _built_in("_collections")[name] for name in ("OrderedDict", "defaultdict", "deque")}
    # Numbers instead of members of an enumeration, which are numbers, too.
    signals = {name: value for name, value in _built_in("_signal").items() if name[0] != "_"}
    return {
        "collections": Later("collections", abc=abstract, **kinds),
        "collections.abc": abstract,
        "enum": Later("enum", Enum=Enum, IntEnum=IntEnum, IntFlag=IntFlag),
        "functools": Later(
            "functools",
            cache=_cache,
            lru_cache=_lru_cache,
            partial=_built_in("_functools")["partial"],
            wraps=_wraps,
        ),
        "hashlib": _hashlib(),
        "pathlib": Later("pathlib", Path=Path),
        "signal": Later("signal", **signals),
    }


def _hashlib() -> Later:
    """With Python's own SHA-256: OpenSSL takes milliseconds to load. Some distributions build Python without it."""
    try:
        return Later("hashlib", sha256=_built_in("_sha256" if sys.version_info < (3, 12) else "_sha2")["sha256"])
    except ImportError:
        return Later("hashlib")


def _built_in(name: str) -> dict[str, Any]:
    """What a module in C has."""
    __import__(name)
    return vars(sys.modules[name])


# ---- functools ----


def _cache(function: Callable[..., Any]) -> Any:
    return _lru_cache(maxsize=None)(function)


def _lru_cache(*, maxsize: int | None) -> Callable[[Callable[..., Any]], Any]:
    def keep(function: Callable[..., Any]) -> Any:
        kept = _built_in("_functools")["_lru_cache_wrapper"](function, maxsize, False, _CacheInfo)
        return _wraps(function)(kept)

    return keep


class _CacheInfo(tuple[int, ...]):
    __slots__ = ()

    def __new__(cls, *figures: int) -> _CacheInfo:
        return super().__new__(cls, figures)


def _wraps(wrapped: Any) -> Callable[[Any], Any]:
    def name(function: Any) -> Any:
        for attribute in ("__module__", "__name__", "__qualname__", "__doc__"):
            setattr(function, attribute, getattr(wrapped, attribute, None))
        function.__dict__.update(wrapped.__dict__)
        function.__wrapped__ = wrapped
        return function

    return name


# ---- enum ----


class Enum:
    """Members by value; the order of their making is that of the class body."""

    name: str | None
    value: Any
    __members__: dict[str, Any]
    _by_value: dict[Any, Any]

    def __init_subclass__(cls) -> None:
        cls.__members__, cls._by_value = {}, {}
        for name, value in tuple(vars(cls).items()):
            if name[0] == "_" or hasattr(value, "__get__"):
                continue
            member = cls._by_value.get(value)
            if member is None:
                member = cls._made(name, value)
            cls._by_value[value] = cls.__members__[name] = member
            setattr(cls, name, member)

    @classmethod
    def _made(cls, name: str | None, value: Any) -> Any:
        made = int.__new__(cls, value) if issubclass(cls, int) else object.__new__(cls)
        made.name, made.value = name, value
        return made

    def __new__(cls, value: Any) -> Any:
        found = cls._by_value.get(value)
        return cls._unknown(value) if found is None else found

    @classmethod
    def _unknown(cls, value: Any) -> Any:
        raise ValueError(f"{value!r} is not a valid {cls.__qualname__}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__}.{self.name}: {self.value!r}>"


class IntEnum(int, Enum):
    __new__ = Enum.__new__  # type: ignore[assignment]
    __repr__ = Enum.__repr__
    __str__ = int.__repr__


class IntFlag(IntEnum):
    @classmethod
    def _unknown(cls, value: Any) -> Any:
        return cls._made(None, int(value))

    def __or__(self, other: int) -> Any:
        return type(self)(int(self) | other)

    def __and__(self, other: int) -> Any:
        return type(self)(int(self) & other)

    def __xor__(self, other: int) -> Any:
        return type(self)(int(self) ^ other)

    def __invert__(self) -> Any:
        return type(self)(sum(self._by_value) & ~int(self))

    def __contains__(self, other: int) -> bool:
        return int(self) & other == other

    __ror__, __rand__, __rxor__ = __or__, __and__, __xor__


# ---- pathlib ----


class Path:
    """A path that is opened, looked at or added to; for anything else it becomes a real one."""

    __slots__ = ("_text",)

    def __init__(self, *parts: Any) -> None:
        self._text = os.path.join(*parts) if parts else "."  # noqa: PTH118

    def __fspath__(self) -> str:
        return self._text

    __str__ = __fspath__

    def __repr__(self) -> str:
        return f"Path({self._text!r})"

    def __truediv__(self, part: Any) -> Path:
        return Path(self._text, part)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Path) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __getattr__(self, name: str) -> Any:
        if name[:2] == "__":
            raise AttributeError(name)
        give_way()
        import pathlib

        return getattr(pathlib.Path(self._text), name)

    def read_bytes(self) -> bytes:
        with open(self._text, "rb") as file:  # noqa: PTH123
            return file.read()

    def read_text(self) -> str:
        with open(self._text) as file:  # noqa: PTH123
            return file.read()

    def write_text(self, text: str) -> int:
        with open(self._text, "w") as file:  # noqa: PTH123
            return file.write(text)

    def stat(self) -> os.stat_result:
        return os.stat(self._text)  # noqa: PTH116

    def exists(self) -> bool:
        return os.path.exists(self._text)  # noqa: PTH110

    def is_dir(self) -> bool:
        return os.path.isdir(self._text)  # noqa: PTH112

    def samefile(self, other: Any) -> bool:
        return os.path.samestat(os.stat(self._text), os.stat(other))  # noqa: PTH116
