"""Local volumes: directories `<data>/volumes/<name>/_data`, made when a container uses them.

Listing, drivers and copying an image's content in come with issue 6.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from pathlib import Path

from bulkhead.errors import Internal, InvalidArgument
from bulkhead.manager.ports import Trash
from bulkhead.model.ids import new_id

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,254}")


class Volumes:
    """The volumes below one directory."""

    def __init__(self, root: Path, trash: Trash) -> None:
        self._root = root
        self._trash = trash

    def ensure(self, name: str) -> Path:
        """The directory of volume `name`, made when it is not there. Raises InvalidArgument, Internal."""
        place = self._root / check_name(name)
        data = place / "_data"
        if data.is_dir():
            return data
        try:
            self._root.mkdir(mode=0o711, parents=True, exist_ok=True)
            hidden = self._root / f".{name}.{secrets.token_hex(4)}"
            (hidden / "_data").mkdir(mode=0o755, parents=True)
            hidden.chmod(0o711)
            self._place(hidden, place)
        except OSError as error:
            raise Internal(f"cannot make volume {name}: {error.strerror}") from error
        return data

    def anonymous(self) -> str:
        """A name for a volume that a user has not named."""
        return new_id()

    def recover(self) -> None:
        """Sweep volumes whose making was cut short. Raises Internal."""
        if self._root.is_dir():
            for hidden in self._root.glob(".*"):
                self._trash.throw(hidden)

    def remove(self, names: Iterable[str]) -> None:
        """Take volumes away; no error for those that are gone."""
        for name in names:
            self._trash.throw(self._root / check_name(name))

    def _place(self, made: Path, place: Path) -> None:
        try:
            made.rename(place)
        except OSError:
            (made / "_data").rmdir()
            made.rmdir()
            if not place.is_dir():
                raise


def check_name(name: str) -> str:
    """`name`, or InvalidArgument with Docker's text."""
    if _NAME.fullmatch(name) is None:
        raise InvalidArgument(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )
    return name
