"""The code that `dataclasses` writes for each class, kept compiled from one start of a program to the next.

    with class_cache.kept("manager"):
        from bulkhead.manager.app import serve_manager

A service has some hundreds of dataclasses, and each is four to six functions of generated source that Python compiles
anew in every process: a fifth of a start. Compiled code is found by the digest of its source, so that it cannot be out
of date; it lies beside the .pyc files, is trusted as they are, and is for one version of Python as they are. Without
the file, or where it cannot be written, all is as without this module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import marshal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

from bulkhead.bare_code import bare
from bulkhead.linux import atomicfile

_Code = dict[bytes, CodeType]
_MAGIC = importlib.util.MAGIC_NUMBER


@contextlib.contextmanager
def kept(name: str) -> Iterator[None]:
    """Entered around the imports of the program `name`. Without threads."""
    place = _place(name)
    known = _read(place)
    used: _Code = {}

    def execute(source: str, *scopes: dict[str, Any]) -> None:
        digest = hashlib.blake2b(source.encode(), digest_size=16).digest()
        code = used.get(digest) or known.get(digest)
        if code is None:
            code = bare(compile(source, "<string>", "exec"))
        used[digest] = code
        exec(code, *scopes)  # noqa: S102 - of the standard library's own making

    # What a module calls by a builtin's name is its own, if it has one.
    vars(dataclasses)["exec"] = execute
    try:
        yield
    finally:
        del vars(dataclasses)["exec"]
    if not used.keys() <= known.keys() and not sys.dont_write_bytecode:
        _write(place, used)


def _place(name: str) -> Path:
    # Where Python has been told to keep compiled code, if it has been told.
    beside = Path(importlib.util.cache_from_source(__file__))
    return beside.with_name(f"{name}.{sys.implementation.cache_tag}.classes")


def _read(place: Path) -> _Code:
    try:
        kept = place.read_bytes()
        if not kept.startswith(_MAGIC):
            return {}
        found = marshal.loads(kept[len(_MAGIC) :])
    except (OSError, ValueError, EOFError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(place: Path, code: _Code) -> None:
    """Another process may do the same."""
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        atomicfile.write(place, _MAGIC + marshal.dumps(code), durable=False)
