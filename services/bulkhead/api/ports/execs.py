"""Execs: processes that are started in a container beside its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from bulkhead.api.ports.stdio import ProcessEnd
from bulkhead.model.execs import ExecSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedExec:
    id: str
    container_id: str = ""
    spec: ExecSpec = field(default_factory=ExecSpec)
    running: bool = False
    started: bool = False
    exit_code: int | None = None
    pid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedExec:
    """Where its streams are, and which were asked for."""

    socket: str
    spec: ExecSpec


class Execs(Protocol):
    async def create(self, ref: str, spec: ExecSpec) -> str:
        """The id of the new exec."""

    async def start(self, exec_id: str, *, detach: bool, tty: bool, height: int, width: int) -> StartedExec:
        """The stdio socket whose `exec` starts the process; empty when detached, and it runs.

        Raises LaunchFailed when a detached one cannot be run.
        """

    async def inspect(self, exec_id: str, *, asked: bool = False) -> InspectedExec:
        """With `asked` the shim was asked to start it, and has not told how that went."""

    async def resize(self, exec_id: str, height: int, width: int) -> None: ...


class ShimExecs(Protocol):
    """Execs at their container's shim, without the manager; None is for him to say: to do, or why not."""

    async def create(self, ref: str, spec: ExecSpec) -> str | None:
        """The id of the new exec."""

    def ended(self, exec_id: str) -> InspectedExec | None:
        """One that has ended a moment ago."""

    async def start(self, exec_id: str, height: int, width: int) -> tuple[ProcessEnd, bool] | None:
        """The duplex stream of what has been started, and whether it is a terminal's; of the size that it was created
        with, or that is given. Unavailable when the shim was asked, and does not say what came of it."""
