"""A start in a third of the time: the interpreter's modules that cost most of it, replaced or put off.

A container that lives for milliseconds waits for its runtime's imports longer than for the kernel. Most of
them is `dataclasses`, which compiles source text for every class and brings the parser for it; then `socket` and
`signal`, which turn a thousand constants into enumerations, `enum` itself, `collections`, `functools` and `pathlib`
for the little we ask of them; and some that few verbs ever use. This process, and only it, gets stand-ins that do
what our modules ask of them (`standins` has those with a life of their own), and modules that load themselves when
something else is asked. They are for our modules alone: when any other is loaded, all of them give way, and it finds
the real ones. Tests import the real ones.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

_Module: Any = type(sys)

_LATER = ("ctypes", "inspect", "pathlib", "shutil", "subprocess", "threading", "tty")
# What is loaded beside ours and has no use for what stands in: C modules, and what asks for no more than they have.
NEUTRAL = frozenset(
    {
        *("_struct", "array", "collections", "contextlib", "errno", "fcntl", "math", "posix", "resource", "select"),
        *("struct", "termios", "types", "_json", "_sha256", "_sha2", "_socket"),
    }
)
_standins: dict[str, ModuleType] = {}


def lighten() -> None:
    """Before anything else is imported; what is loaded already stays."""
    from bulkhead.runtime.command import standins

    offered: dict[str, ModuleType] = {
        "socket": _socket_module(),
        "dataclasses": _dataclasses(),
        "json": _json_module(),
        "re": Later("re", compile=_Pattern),
        "typing": Later("typing", Any=object, IO=object),
        **{name: Later(name) for name in _LATER},
        **standins.modules(),
    }
    _standins.update({name: module for name, module in offered.items() if name not in sys.modules})
    sys.modules.update(_standins)
    sys.meta_path.insert(0, _Watch)


class _Watch:
    """Sees every module that is loaded from now on: one that is neither ours nor neutral finds no stand-ins."""

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> None:
        if not name.startswith("bulkhead") and name not in NEUTRAL and name not in sys.builtin_module_names:
            give_way()


def give_way() -> None:
    """The real modules may be imported from now on; who has a stand-in keeps it."""
    if _Watch in sys.meta_path:
        sys.meta_path.remove(_Watch)
    for name, module in _standins.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]


class Later(_Module):  # type: ignore[misc]
    """A module of what has been `given`; it becomes the real one of its name when more is asked of it."""

    def __init__(self, name: str, **given: Any) -> None:
        super().__init__(name)
        self.__dict__.update(given)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._real(), name)

    def _real(self) -> Any:
        """The real one, in our place from now on; what was given stays, for who compares by it."""
        give_way()
        __import__(self.__name__)
        module = sys.modules[self.__name__]
        for name, value in module.__dict__.items():
            self.__dict__.setdefault(name, value)
        return module


class _Pattern:
    """A regular expression that is compiled when it is first matched."""

    def __init__(self, *given: Any) -> None:
        self._given = given

    def __getattr__(self, name: str) -> Any:
        give_way()
        import re

        return getattr(re.compile(*self._given), name)


# ---- json ----


class _Rules:
    """How the C scanner reads: as json.loads does without options."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


def _json_module() -> ModuleType:
    """Its two functions; what they cannot do, and every error, is the real one's affair."""
    import _json

    later = Later("json")
    scan: Any = _json.make_scanner(_Rules)  # type: ignore[arg-type]

    def loads(content: str | bytes) -> Any:
        text, value, end = "", None, -1
        try:
            text = (content.decode() if isinstance(content, bytes) else content).strip(" \t\n\r")
            value, end = scan(text, 0)
        except Exception:  # whichever: the real one says it properly
            return later._real().loads(content)
        return value if end == len(text) else later._real().loads(content)

    def dumps(
        value: Any,
        *,
        ensure_ascii: bool = True,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
        indent: Any = None,
    ) -> str:
        if indent is not None:
            text: str = later._real().dumps(value, separators=separators, indent=indent)
            return text
        item, key = separators or (", ", ": ")
        string: Any = _json.encode_basestring_ascii if ensure_ascii else _json.encode_basestring
        encode: Any = _json.make_encoder({}, _no_json, string, None, key, item, sort_keys, False, True)
        return "".join(encode(value, 0))

    later.__dict__.update(loads=loads, dumps=dumps)
    return later


def _no_json(value: object) -> object:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


# ---- socket ----


def _socket_module() -> ModuleType:
    import _socket

    class Socket(_socket.socket):
        """The C class as a context manager, which it lacks."""

        __slots__ = ()

        def __enter__(self) -> Socket:
            return self

        def __exit__(self, *_failure: object) -> None:
            self.close()

    module: ModuleType = _Module("socket")
    module.__dict__.update(_socket.__dict__, socket=Socket, __name__="socket")
    return module


# ---- dataclasses ----


class _Field:
    __slots__ = ("default", "default_factory")

    def __init__(self, *, default: Any = None, default_factory: Any = None, repr: bool = True) -> None:
        self.default = default
        self.default_factory = default_factory


def _dataclasses() -> ModuleType:
    module: ModuleType = _Module("dataclasses")
    module.__dict__.update(dataclass=_dataclass, field=_Field, replace=_replace, asdict=_asdict)
    return module


def _dataclass(**_options: Any) -> Callable[[type], type]:
    """frozen, slots and kw_only are promises that type checks and tests have held us to already."""
    return _with_fields


def _with_fields(cls: type) -> type:
    own = cls.__dict__.get("__annotations__", ())  # noqa: RUF063 (inspect is what this spares us)
    names = (*getattr(cls, "__lean_fields__", ()), *own)
    defaults = {name: value for name in names if (value := cls.__dict__.get(name, _MISSING)) is not _MISSING}
    for name, value in defaults.items():
        if isinstance(value, _Field):
            delattr(cls, name)
    made = {name: value.default_factory for name, value in defaults.items() if isinstance(value, _Field)}
    plain = {name: value.default if isinstance(value, _Field) else value for name, value in defaults.items()}

    def __init__(self: Any, *given: Any, **named: Any) -> None:
        values = {**plain, **dict(zip(names, given, strict=False)), **named}
        for name, factory in made.items():
            if factory is not None and name not in named:
                values[name] = factory()
        if len(values) != len(names):
            raise TypeError(f"{cls.__name__} is not made of {sorted(values)}")
        self.__dict__.update(values)

    def __eq__(self: Any, other: Any) -> bool:
        return type(self) is type(other) and bool(self.__dict__ == other.__dict__)

    def __hash__(self: Any) -> int:
        return hash((cls, *(self.__dict__[name] for name in names)))

    for function in (__init__, __eq__, __hash__):
        setattr(cls, function.__name__, function)
    setattr(cls, "__lean_fields__", names)  # noqa: B010
    return cls


_MISSING = object()


def _replace(instance: Any, **changes: Any) -> Any:
    return type(instance)(**{**instance.__dict__, **changes})


def _asdict(instance: Any) -> dict[str, Any]:
    return {name: _plain(value) for name, value in instance.__dict__.items()}


def _plain(value: Any) -> Any:
    if hasattr(value, "__lean_fields__"):
        return _asdict(value)
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
