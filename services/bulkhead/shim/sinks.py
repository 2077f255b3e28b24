"""Who takes what a container's streams say, and what he is told about where it goes."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from bulkhead.model.losses import Loss

_FIRST_CHUNK, _CHUNK = 4 << 10, 256 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTarget:
    """Where the log goes. `max_size` in bytes, 0 is unlimited; `max_file` counts the current one too.

    `compress` packs the files that are rotated away. `attributes` is a JSON object that every line bears, or nothing.
    With `non_blocking` the container never waits: what does not fit into `max_buffer` bytes is dropped. `verbatim`:
    bytes that are not UTF-8 are kept.
    """

    path: str
    max_size: int = 0
    max_file: int = 1
    compress: bool = False
    attributes: bytes = b""
    non_blocking: bool = False
    max_buffer: int = 0
    verbatim: bool = False


class LogSink(Protocol):
    """Takes what a container's streams say. It has no bodies: whoever hands things on must hand on each."""

    @abstractmethod
    def take(self, stream: int, source: int, *, terminal: bool) -> bytes:
        """As read(2), from a descriptor of stream 1 or 2; `write` comes next, for the same stream."""

    @abstractmethod
    def to_keep(self) -> dict[str, int]:
        """Descriptors that a successor needs, by name."""

    @abstractmethod
    def write(self, stream: int, chunk: bytes) -> None:
        """`chunk` was read from stream 1 or 2."""

    @abstractmethod
    def end(self, stream: int) -> None:
        """The stream has ended: its last line may lack a newline."""

    @abstractmethod
    def finish(self, done: Callable[[], None]) -> None:
        """Write what still waits, then call `done`; soon, even if the disk is stuck."""

    @abstractmethod
    def unlogged(self) -> Loss | None:
        """What has been taken and is not in the log: to be asked when it is finished."""

    @abstractmethod
    def rest(self) -> None:
        """Nothing may come for a while: let go of what can be had again."""

    @abstractmethod
    def close(self) -> None: ...


class NoLog(LogSink):
    """The driver `none`."""

    def __init__(self) -> None:
        # Little for who may say nothing: a large piece of memory is mapped for each reading, and given back after it.
        self._size = _FIRST_CHUNK

    def take(self, _stream: int, source: int, *, terminal: bool) -> bytes:
        del terminal
        chunk = os.read(source, self._size)
        if len(chunk) == self._size:
            self._size = _CHUNK
        return chunk

    def to_keep(self) -> dict[str, int]:
        return {}

    def write(self, stream: int, chunk: bytes) -> None:
        """Nothing is kept."""

    def end(self, stream: int) -> None:
        """Nothing is kept."""

    def finish(self, done: Callable[[], None]) -> None:
        done()

    def unlogged(self) -> Loss | None:
        """Nothing was to be."""
        return None

    def rest(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is open."""


class Brake(Protocol):
    """Stops and lets go the reading of the container's output."""

    def hold(self, holder: object) -> None: ...

    def unhold(self, holder: object) -> None: ...
