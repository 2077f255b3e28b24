"""What no log of an installation may hold: the trace of an error that nobody expected."""

from __future__ import annotations

import glob
from pathlib import Path

from bulkhead.model.instance import Instance

# As the interpreter prints it, and as structlog keeps it in a JSON string.
_MARK = b"Traceback (most recent call last)"
_SHOWN = 4000


class Journals:
    """The logs of the services and of the shims that are there; each piece is read once."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._read: dict[Path, tuple[int, int]] = {}

    def tracebacks(self) -> list[str]:
        """Lines with a trace (and what follows it) that were written since this was last asked."""
        return [f"{path}: {text}" for path in self._paths() for text in self._fresh(path)]

    def _paths(self) -> list[Path]:
        # Not pathlib's: that one trips over a directory that goes while it looks.
        places = (f"{self._instance.run}/log/*.log*", f"{self._instance.data}/containers/*/shim.log*")
        return [Path(found) for place in places for found in glob.glob(place)]  # noqa: PTH207

    def _fresh(self, path: Path) -> list[str]:
        try:
            with path.open("rb") as log:
                inode = path.stat().st_ino
                known, at = self._read.get(path, (inode, 0))
                log.seek(0, 2)
                # Another file under this name, or one that was cut: all of it is news.
                log.seek(at if known == inode and at <= log.tell() else 0)
                news = log.read()
                self._read[path] = inode, log.tell()
        except FileNotFoundError:
            return []
        if _MARK not in news:
            return []
        start = news.rfind(b"\n", 0, news.index(_MARK)) + 1
        return [news[start : start + _SHOWN].decode(errors="replace")]
