"""The data road: streams of containers and execs, at their shims' sockets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bulkhead.api.duplex import End
from bulkhead.errors import Unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """Which of a process's streams a client wants; `detach_keys` empty means Docker's default."""

    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    detach_keys: str = ""


class Following(Protocol):
    """A subscription to the growth of one container's log."""

    async def grown(self) -> bool:
        """Wait until the log has grown (True), or until nothing more comes (False)."""

    def shim_died(self) -> bool:
        """After `grown` said False: the shim is gone, so that its word means nothing."""

    def close(self) -> None: ...


class ProcessEnd(End, Protocol):
    """A process's streams, and whether they have ended; `broken` when they did by the death of its shim."""

    broken: bool

    @property
    def has_ended(self) -> bool: ...


class Unreachable(Unavailable):
    """Nobody listens there: nothing was asked."""


class Stdio(Protocol):
    """The shims' stdio sockets; Unreachable when none listens at `socket`, Unavailable when it does not answer."""

    async def attach(self, socket: str, streams: Streams) -> tuple[ProcessEnd, bool]:
        """The duplex stream of a container, and whether it is a terminal's."""

    async def exec(self, socket: str, exec_id: str, streams: Streams) -> tuple[ProcessEnd, bool]:
        """Start a registered exec and get its duplex stream."""

    async def follow(self, socket: str) -> Following: ...
