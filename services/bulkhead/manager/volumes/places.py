"""The directories of volumes: `<data>/volumes/<name>/_data`, whole or not there.

A place is made under a hidden name and renamed; what a crash leaves hidden is swept. A place without a record (its
making or unmaking was cut short, or the records were lost) is taken on as a volume: nobody's data is thrown away.
"""

from __future__ import annotations

import os
import secrets
import zlib
from pathlib import Path

from bulkhead.content.durable import disk_errors
from bulkhead.errors import InvalidArgument
from bulkhead.linux import quota
from bulkhead.manager.ports import Trash
from bulkhead.model.volume import check_name

_DATA = "_data"


class Places:
    """The directories below one root. Every method blocks."""

    def __init__(self, root: Path, trash: Trash) -> None:
        self.root = root
        self._trash = trash

    def data(self, name: str) -> Path:
        """Where the volume's files are, whether or not it exists."""
        return self.root / check_name(name) / _DATA

    def make(self, name: str, size: int = 0) -> bool:
        """Make the directory of volume `name`, limited to `size` bytes if that is not 0; whether it was not there.

        Raises InvalidArgument when the file system cannot limit it, Internal, ResourceExhausted.
        """
        data = self.data(name)
        if data.is_dir():
            return False
        with disk_errors(f"make volume {name}"):
            self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
            # Without the volume's own name, which may be as long as a file's.
            hidden = self.root / f".{secrets.token_hex(8)}"
            hidden.mkdir(mode=0o711)
            try:
                _limit(hidden, name, size)
                (hidden / _DATA).mkdir(mode=0o755)
                (hidden / _DATA).chmod(0o755)
                return self._place(hidden, data.parent)
            except BaseException:
                self._trash.throw(hidden)
                raise

    def begin_filling(self, name: str) -> Path:
        """An empty directory beside the volume's own, to be filled and then put in its place."""
        hidden = self.data(name).parent / f".fill.{secrets.token_hex(4)}"
        with disk_errors(f"fill volume {name}"):
            hidden.mkdir(mode=0o700)
        return hidden

    def end_filling(self, name: str, filled: Path) -> bool:
        """Put `filled` in the place of the volume's empty directory; False when that is not empty any more."""
        with disk_errors(f"fill volume {name}"):
            try:
                filled.rename(self.data(name))
            except OSError:
                self._trash.throw(filled)
                return False
        return True

    def abandon_filling(self, filled: Path) -> None:
        """Throw away what was filled in part."""
        self._trash.throw(filled)

    def is_empty(self, name: str) -> bool:
        """Whether the volume's directory holds nothing. Raises Internal when it cannot be read."""
        with disk_errors(f"read volume {name}"), os.scandir(self.data(name)) as entries:
            return next(entries, None) is None

    def remove(self, name: str) -> None:
        """Take the volume's directory away; no error when it is gone. Raises Internal."""
        self._trash.throw(self.root / check_name(name))

    def names(self) -> list[str]:
        """The volumes that have a directory."""
        if not self.root.is_dir():
            return []
        return sorted(entry.name for entry in self.root.iterdir() if not entry.name.startswith(".") and entry.is_dir())

    def sweep(self) -> None:
        """Throw away what was being made or filled. Raises Internal."""
        if self.root.is_dir():
            for hidden in (*self.root.glob(".*"), *self.root.glob("*/.fill.*")):
                self._trash.throw(hidden)

    def _place(self, made: Path, place: Path) -> bool:
        try:
            made.rename(place)
        except OSError:
            self._trash.throw(made)
            if not place.is_dir():
                raise
            return False
        return True


def _limit(directory: Path, name: str, size: int) -> None:
    if not size:
        return
    try:
        quota.limit(directory, zlib.crc32(name.encode()) or 1, size)
    except quota.QuotaUnsupported:
        raise InvalidArgument(
            f"create {name}: quota size requested but no quota support (the file system of {directory.parent} needs "
            "project quotas: ext4 or xfs, mounted with prjquota)"
        ) from None
