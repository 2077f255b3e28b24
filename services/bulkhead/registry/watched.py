"""A small configuration file that is read again when it changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from bulkhead.errors import InvalidArgument

T = TypeVar("T")
# Longer files are mistakes: these are written by people.
MAX_BYTES = 16 << 20


class Watched(Generic[T]):
    """What `parse` makes of a file's bytes; looked at anew with every use.

    The first reading raises InvalidArgument. A later one that fails leaves what was last good in
    force, and says so once: a slip of the editor must not lock everybody out, nor let anybody in.
    """

    def __init__(self, path: Path, parse: Callable[[bytes], T]) -> None:
        self._path = path
        self._parse = parse
        self._seen = _signature(path)
        self._value = self._read()

    @property
    def value(self) -> T:
        """The file's meaning now."""
        seen = _signature(self._path)
        if seen != self._seen:
            self._seen = seen
            try:
                self._value = self._read()
            except InvalidArgument as error:
                structlog.get_logger().error("changed file not used", path=str(self._path), reason=str(error))
        return self._value

    def _read(self) -> T:
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise InvalidArgument(f"cannot read {self._path}: {error.strerror}") from error
        if len(data) > MAX_BYTES:
            raise InvalidArgument(f"cannot use {self._path}: larger than {MAX_BYTES} bytes")
        try:
            return self._parse(data)
        except InvalidArgument as error:
            raise InvalidArgument(f"cannot use {self._path}: {error}") from error


def _signature(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
