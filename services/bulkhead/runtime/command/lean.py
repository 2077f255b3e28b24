"""A start in a third of the time: the interpreter's modules that cost most of it, replaced or put off.

A container that lives for milliseconds waits for its runtime's imports longer than for the kernel. Half of
them is `dataclasses`, which compiles source text for every class and brings the parser for it; then `socket`,
which turns a thousand constants into enumerations; and some that few verbs ever use. This process, and only
it, gets a `dataclasses` that does by closures what our classes ask of it, the C module under `socket`, and
modules that load themselves when something is asked of them. Tests import the real ones.
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


class _Later(ModuleType):
    """Becomes the module of its name when it is first used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        del sys.modules[self.__name__]
        module = __import__(self.__name__)
        self.__dict__.update(module.__dict__)
        return getattr(module, name)


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
