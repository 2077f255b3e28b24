"""The compiled code of all modules that a program imports, in one file: found at once, not looked for one by one.

    with module_image.kept("manager"):
        from bulkhead.manager.app import serve_manager

Python looks for each module in a handful of directories and reads a file for each: a tenth of a service's start, a
fifth of a runtime command's. A module comes from the image if its source is as old and as long as the image says, as
Python itself judges its .pyc files; otherwise Python loads it as ever, and the image is written anew afterwards. It
lies beside the .pyc files, is trusted as they are, and is for one version of Python and one installation. Without it,
or where it cannot be written, all is as without this module.

What only people read is not in it (`bare_code`): a tenth of a service's memory.

    magic of .pyc files | u32 length | installation and index, marshalled | code of each, marshalled
"""

from __future__ import annotations

import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ExtensionFileLoader, ModuleSpec, SourceFileLoader
    from types import CodeType
    from typing import Any
else:
    # What importlib has under other names, without loading it.
    _external = sys.modules["_frozen_importlib_external"]
    SourceFileLoader, ExtensionFileLoader = _external.SourceFileLoader, _external.ExtensionFileLoader
    ModuleSpec = type(__spec__)

# A module: its file, that one's time of change in nanoseconds and size; whether it is a package; where its code is
# among the codes, and its length (0: machine code, which is in the file itself).
Entry = tuple[str, int, int, bool, int, int]

_MAGIC: bytes = sys.modules["_frozen_importlib_external"].MAGIC_NUMBER
_HEAD = len(_MAGIC) + 4
# Of the code: other than what it was before.
_FORM = "bare"


class _Loader(SourceFileLoader):
    """Python's own, but for where the code comes from."""

    def __init__(self, name: str, path: str, code: CodeType) -> None:
        super().__init__(name, path)
        self._code: CodeType | None = code

    def get_code(self, fullname: str) -> CodeType | None:
        code, self._code = self._code, None
        return super().get_code(fullname) if code is None else code


class ModuleImage:
    """A finder of modules for `sys.meta_path`, there while entered; afterwards what was loaded and is `wanted` is kept.

    Read at once, or `mapped`, which leaves nothing behind in memory and has a descriptor open meanwhile.
    """

    def __init__(self, place: str, wanted: Callable[[str], bool], *, mapped: bool) -> None:
        self._place = place
        self._wanted = wanted
        self._index: dict[str, Entry] = {}
        self._content: Any = b""
        self._begin = 0
        self._used: set[str] = set()
        try:
            self._read(mapped=mapped)
        except (OSError, ValueError, EOFError, TypeError):
            self._index = {}
        self._before = frozenset(sys.modules)

    def _read(self, *, mapped: bool) -> None:
        with open(self._place, "rb") as file:  # noqa: PTH123
            if mapped:
                import mmap

                self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            else:
                self._content = file.read()
        if self._content[: len(_MAGIC)] != _MAGIC:
            return
        self._begin = _HEAD + int.from_bytes(self._content[len(_MAGIC) : _HEAD], "little")
        installation, index = marshal.loads(self._content[_HEAD : self._begin])
        if installation == _installation() and isinstance(index, dict):
            self._index = index

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """Only of what is in the image and current."""
        entry = self._index.get(name)
        if entry is None or not _is_current(entry):
            return None
        path, _, _, package, _, length = entry
        loader: SourceFileLoader | ExtensionFileLoader
        if length:
            if (code := self._code(entry)) is None:
                return None
            loader = _Loader(name, path, code)
        else:
            loader = ExtensionFileLoader(name, path)
        self._used.add(name)
        spec = ModuleSpec(name, loader, origin=path, is_package=package)
        spec.has_location = True
        if package:
            spec.submodule_search_locations = [os.path.dirname(path)]  # noqa: PTH120
        return spec

    def _code(self, entry: Entry) -> CodeType | None:
        begin = self._begin + entry[4]
        try:
            found = marshal.loads(self._content[begin : begin + entry[5]])
        except (ValueError, EOFError, TypeError):
            return None
        return found if isinstance(found, type(_is_current.__code__)) else None

    def keep(self) -> None:
        """Write the image anew if a module has been loaded that it does not have as it is now."""
        try:
            self._keep()
        except Exception:  # what a program has done must not fail for what would make it quicker: sources that change
            return

    def _keep(self) -> None:
        if sys.dont_write_bytecode or not os.access(os.path.dirname(self._place), os.W_OK):  # noqa: PTH120
            return
        missing = [name for name in [*sys.modules] if name not in self._used and name not in self._before]
        found = dict(filter(None, map(_compiled, filter(self._wanted, missing))))
        if not found:
            return
        for name, entry in self._index.items():
            if name not in found and _is_current(entry):
                begin = self._begin + entry[4]
                found[name] = entry, self._content[begin : begin + entry[5]]
        _write(self._place, found)

    def __enter__(self) -> ModuleImage:
        sys.meta_path.insert(0, self)
        return self

    def __exit__(self, *_failure: object) -> None:
        try:
            self.keep()
        finally:
            self.close()

    def close(self) -> None:
        """Nothing more comes from it, and nothing of it stays in memory."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        if hasattr(self._content, "close"):
            self._content.close()
        self._index, self._content = {}, b""


def kept(name: str, wanted: Callable[[str], bool] = lambda _: True, *, mapped: bool = True) -> ModuleImage:
    """Entered around the imports of the program `name`, without threads: they come from its image, where they can."""
    beside = os.path.dirname(__spec__.cached or "")  # noqa: PTH120
    return ModuleImage(f"{beside}/{name}.{sys.implementation.cache_tag}.modules", wanted, mapped=mapped)


def _installation() -> str:
    """Where modules are looked for differs from one to the other, also when the image lies in sources of both."""
    places = "" if sys.flags.ignore_environment else os.environ.get("PYTHONPATH", "")
    return "\n".join((sys.version, sys.prefix, places, str(sys.flags.optimize), _FORM))


def _is_current(entry: Entry) -> bool:
    try:
        found = os.stat(entry[0])  # noqa: PTH116
    except OSError:
        return False
    return (found.st_mtime_ns, found.st_size) == (entry[1], entry[2])


def _compiled(name: str) -> tuple[str, tuple[Entry, bytes]] | None:
    """A loaded module's entry, its place left open, and its code; None for what comes from no file of its own."""
    spec: Any = getattr(sys.modules[name], "__spec__", None)
    loader = getattr(spec, "loader", None)
    if spec is None or spec.name != name or not isinstance(loader, (SourceFileLoader, ExtensionFileLoader)):
        return None
    try:
        found = os.stat(spec.origin)  # noqa: PTH116
        code = _packed(loader.get_code(name)) if isinstance(loader, SourceFileLoader) else b""
    except (OSError, ImportError, ValueError):
        return None
    package = spec.submodule_search_locations is not None
    return name, ((spec.origin, found.st_mtime_ns, found.st_size, package, 0, 0), code)


def _packed(code: CodeType | None) -> bytes:
    from bulkhead.bare_code import bare

    return marshal.dumps(code and bare(code))


def _write(place: str, found: dict[str, tuple[Entry, bytes]]) -> None:
    """Another process may do the same."""
    from bulkhead.linux import atomicfile

    index: dict[str, Entry] = {}
    begin = 0
    for name, (entry, code) in found.items():
        index[name] = (*entry[:4], begin, len(code))
        begin += len(code)
    packed = marshal.dumps((_installation(), index))
    whole = _MAGIC + len(packed).to_bytes(4, "little") + packed + b"".join(code for _, code in found.values())
    try:
        atomicfile.write(place, whole, mode=0o644, durable=False)
    except OSError:
        return
