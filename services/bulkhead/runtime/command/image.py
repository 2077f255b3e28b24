"""The compiled code of all modules that the command imports, in one file: found at once, not looked for one by one.

    image = use()
    ...imports...
    image.keep()

A module's code is taken from the image if its source is as old and as long as the image says, as Python itself judges
its .pyc files; otherwise Python loads it as ever, and the image is written anew when the command ends. The image lies
beside the .pyc files, is trusted as they are, and is for one version of Python as they are. Without it, or where it
cannot be written, all is as without this module.

    magic of .pyc files | u32 length | index, marshalled: name -> Entry | code of each, marshalled
"""

from __future__ import annotations

import marshal
import os
import sys

from bulkhead.runtime.command.lean import NEUTRAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType
    from typing import Any

# A module: its source, that one's time of change in nanoseconds and size; whether it is a package; where its code is
# among the codes, and its length.
Entry = tuple[str, int, int, bool, int, int]

_spec: Any = __spec__
_Spec: Any = type(_spec)
_MAGIC: bytes = sys.modules["_frozen_importlib_external"].MAGIC_NUMBER
_HEAD = len(_MAGIC) + 4


class Image:
    """A finder and loader of modules, for `sys.meta_path`."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._before = frozenset(sys.modules)
        self._index: dict[str, Entry] = {}
        self._codes = b""
        self._used: dict[str, CodeType] = {}
        self._read()

    def _read(self) -> None:
        try:
            with open(self._place, "rb") as file:  # noqa: PTH123
                whole = file.read()
            if whole[: len(_MAGIC)] != _MAGIC:
                return
            end = _HEAD + int.from_bytes(whole[len(_MAGIC) : _HEAD], "little")
            index = marshal.loads(whole[_HEAD:end])
        except (OSError, ValueError, EOFError, TypeError):
            return
        if isinstance(index, dict):
            self._index, self._codes = index, whole[end:]

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """Only of what is in the image and current."""
        entry = self._index.get(name)
        code = self._code(entry) if entry is not None and _is_current(entry) else None
        if entry is None or code is None:
            return None
        self._used[name] = code
        spec: ModuleSpec = _Spec(name, self, origin=entry[0], is_package=entry[3])
        spec.has_location = True
        if entry[3]:
            spec.submodule_search_locations = [os.path.dirname(entry[0])]  # noqa: PTH120
        return spec

    def _code(self, entry: Entry) -> CodeType | None:
        try:
            found = marshal.loads(self._codes[entry[4] : entry[4] + entry[5]])
        except (ValueError, EOFError, TypeError):
            return None
        return found if isinstance(found, type(_is_current.__code__)) else None

    def create_module(self, _spec: ModuleSpec) -> ModuleType | None:
        """Python's own kind."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(self._used[module.__name__], module.__dict__)  # noqa: S102

    def get_code(self, name: str) -> CodeType | None:
        """As `inspect.Loader` has it."""
        return self._used.get(name)

    def keep(self) -> None:
        """Write the image anew if a module has been loaded that it does not have as it is now."""
        loaded = [name for name in sys.modules if name.startswith("bulkhead.") or name in NEUTRAL]
        missing = [name for name in loaded if name not in self._used and name not in self._before]
        found = dict(filter(None, map(_compiled, missing)))
        if not found or sys.dont_write_bytecode:
            return
        for name, entry in self._index.items():
            if name not in found and _is_current(entry) and (code := self._code(entry)) is not None:
                found[name] = entry, marshal.dumps(code)
        _write(self._place, found)


def use() -> Image:
    """Whatever is imported from now on comes from the image, where it can."""
    # Beside our own .pyc file, wherever Python has been told to keep those.
    image = Image(f"{_spec.cached.removesuffix('.pyc')}.modules" if _spec.cached else "")
    sys.meta_path.insert(0, image)
    return image


def _is_current(entry: Entry) -> bool:
    try:
        found = os.stat(entry[0])  # noqa: PTH116
    except OSError:
        return False
    return (found.st_mtime_ns, found.st_size) == (entry[1], entry[2])


def _compiled(name: str) -> tuple[str, tuple[Entry, bytes]] | None:
    """A loaded module's entry, its place left open, and its code; None for what is not Python."""
    spec: Any = getattr(sys.modules[name], "__spec__", None)
    if spec is None or not (spec.origin or "").endswith(".py"):
        return None
    try:
        found = os.stat(spec.origin)  # noqa: PTH116
        code = marshal.dumps(spec.loader.get_code(name))
    except (OSError, ImportError, ValueError):
        return None
    package = spec.submodule_search_locations is not None
    return name, ((spec.origin, found.st_mtime_ns, found.st_size, package, 0, 0), code)


def _write(place: str, found: dict[str, tuple[Entry, bytes]]) -> None:
    """Another process may do the same."""
    from bulkhead.linux import atomicfile

    index: dict[str, Entry] = {}
    begin = 0
    for name, (entry, code) in found.items():
        index[name] = (*entry[:4], begin, len(code))
        begin += len(code)
    packed = marshal.dumps(index)
    whole = _MAGIC + len(packed).to_bytes(4, "little") + packed + b"".join(code for _, code in found.values())
    try:
        os.makedirs(os.path.dirname(place), exist_ok=True)  # noqa: PTH103, PTH120
        atomicfile.write(place, whole, durable=False)
    except OSError:
        return
