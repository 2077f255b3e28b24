"""aiohttp, imported by whoever first uses it: a seventh of a manager's start, and no manager speaks HTTP by itself.

    from bulkhead.content.later import aiohttp

`load` does it ahead of the first use, in a thread.
"""

from __future__ import annotations

import contextlib
import importlib
import ssl
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import aiohttp as aiohttp
else:

    class _Later:
        def __getattr__(self, name: str) -> Any:
            return getattr(load(), name)

    aiohttp = _Later()

_loading = threading.Lock()
_loaded: Any = None
_LOADERS = ("load_default_certs", "set_default_verify_paths")


def load() -> Any:
    """The module. From any thread."""
    global _loaded
    if _loaded is None:
        with _loading, _without_certificates():
            _loaded = importlib.import_module("aiohttp")
    return _loaded


@contextlib.contextmanager
def _without_certificates() -> Iterator[None]:
    """aiohttp reads the system's into two contexts of its own, 2 MB and 45 ms, and we trust none but `trust`'s.

    Other threads' contexts meanwhile are as they should be.
    """
    ours = threading.get_ident()
    before = {name: ssl.SSLContext.__dict__.get(name) for name in _LOADERS}
    for name in _LOADERS:
        setattr(ssl.SSLContext, name, _unless(ours, getattr(ssl.SSLContext, name)))
    try:
        yield
    finally:
        for name, own in before.items():
            if own is None:
                delattr(ssl.SSLContext, name)
            else:
                setattr(ssl.SSLContext, name, own)


def _unless(thread: int, load: Any) -> Any:
    def loaded(context: ssl.SSLContext, *arguments: Any) -> Any:
        return None if threading.get_ident() == thread else load(context, *arguments)

    return loaded
