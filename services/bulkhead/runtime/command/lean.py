"""A start in a third of the time: the interpreter's modules that cost most of it, replaced or put off.

A container that lives for milliseconds waits for its runtime's imports longer than for the kernel. Half of
them is `dataclasses`, which compiles source text for every class and brings the parser for it; then `socket`,
which turns a thousand constants into enumerations; and some that few verbs ever use. This process, and only
it, gets a `dataclasses` that does by closures what our classes ask of it, the C modules under `socket` and `json`,
and modules that load themselves when something is asked of them. Tests import the real ones.
"""

from __future__ import annotations

import sys
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_LATER = ("ctypes", "hashlib", "inspect", "shutil", "subprocess", "tty")


def lighten() -> None:
    """Before anything else is imported; what is loaded already stays."""
    sys.modules.setdefault("socket", _socket_module())
    if "dataclasses" not in sys.modules:
        sys.modules["dataclasses"] = _dataclasses()
    for name in _LATER:
        sys.modules.setdefault(name, _Later(name))
    sys.modules.setdefault("json", _json_module())
    sys.modules.setdefault("re", _Later("re", compile=_Pattern))
    sys.modules.setdefault("typing", _Later("typing", Any=object, IO=object))
    sys.modules.setdefault("urllib.parse", _url_module())


class _Later(ModuleType):
    """Becomes the module of its name when it is first used for more than what it has been `given`."""

    def __init__(self, name: str, **given: Any) -> None:
        super().__init__(name)
        self.__dict__.update(given)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.load(), name)

    def load(self) -> Any:
        """The real one, in our place from now on."""
        name = self.__name__
        if sys.modules.get(name) is self:
            del sys.modules[name]
            __import__(name)
        module = sys.modules[name]
        self.__dict__.update(module.__dict__)
        return module


class _Pattern:
    """A regular expression that is compiled when it is first matched."""

    def __init__(self, *given: Any) -> None:
        self._given = given

    def __getattr__(self, name: str) -> Any:
        import re

        # The module may be the one that waits: its own `compile` is this class.
        real: Any = re.load() if isinstance(re, _Later) else re
        return getattr(real.compile(*self._given), name)


def _url_module() -> ModuleType:
    """pathlib takes one function from it by name."""
    later = _Later("urllib.parse")
    later.__dict__["quote_from_bytes"] = lambda *given: later.load().quote_from_bytes(*given)
    return later


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

    later = _Later("json")
    scan: Any = _json.make_scanner(_Rules)  # type: ignore[arg-type]

    def loads(content: str | bytes) -> Any:
        text, value, end = "", None, -1
        try:
            text = (content.decode() if isinstance(content, bytes) else content).strip(" \t\n\r")
            value, end = scan(text, 0)
        except Exception:  # whichever: the real one says it properly
            return later.load().loads(content)
        return value if end == len(text) else later.load().loads(content)

    def dumps(
        value: Any,
        *,
        ensure_ascii: bool = True,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
        indent: Any = None,
    ) -> str:
        if indent is not None:
            text: str = later.load().dumps(value, separators=separators, indent=indent)
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

    module = ModuleType("socket")
    module.__dict__.update(_socket.__dict__, socket=Socket, __name__="socket")
    return module


# ---- dataclasses ----


class _Field:
    __slots__ = ("default", "default_factory")

    def __init__(self, *, default: Any = None, default_factory: Any = None, repr: bool = True) -> None:
        self.default = default
        self.default_factory = default_factory


def _dataclasses() -> ModuleType:
    module = ModuleType("dataclasses")
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
