"""The log that shims, conmon and podman read back: its last line is what they present to their users.

Lines have logrus' two shapes, since that is what everybody parses. Without --log they go to stderr; with
it an error is said on stderr in plain words as well.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

from bulkhead.errors import InvalidArgument

FORMATS = ("text", "json")


class Log:
    """One command's log."""

    __slots__ = ("_as_json", "_debug", "_file")

    def __init__(self, *, path: str, kind: str, debug: bool) -> None:
        """InvalidArgument when the file cannot be opened or the format is unknown."""
        if kind not in FORMATS:
            raise InvalidArgument(f'invalid log-format: "{kind}"')
        self._as_json = kind == "json"
        self._debug = debug
        self._file = 2
        if path:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_SYNC | os.O_CLOEXEC
            try:
                self._file = os.open(path, flags, 0o644)
            except OSError as error:
                raise InvalidArgument(f"open {path}: {(error.strerror or '').lower()}") from error

    def debug(self, text: str) -> None:
        if self._debug:
            self._line("debug", text)

    def tracer(self) -> Callable[[str], None] | None:
        """`debug`, or nothing when nobody reads it."""
        return self.debug if self._debug else None

    def warning(self, text: str, *, aloud: bool = False) -> None:
        """Not on stderr unless asked for (or `aloud`): that is the container's as well, whose output it would spoil."""
        if aloud or self._debug or self._file != 2:
            self._line("warning", text)

    def error(self, text: str) -> None:
        self._line("error", text)
        if self._file != 2:
            _say(2, text + "\n")

    def _line(self, level: str, text: str) -> None:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._as_json:
            line = json.dumps({"level": level, "msg": text, "time": moment}, ensure_ascii=False, separators=(",", ":"))
        else:
            line = f'time="{moment}" level={level} msg={json.dumps(text, ensure_ascii=False)}'
        _say(self._file, line + "\n")


def _say(fd: int, text: str) -> None:
    try:
        os.write(fd, text.encode("utf-8", "surrogateescape"))
    except OSError:
        # Nobody listens, or the disk is full: the exit status still tells.
        return
