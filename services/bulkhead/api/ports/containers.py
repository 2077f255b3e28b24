"""Containers: what is told of them, and what is done to them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bulkhead.api.call import Filters
from bulkhead.model.container import ContainerSpec, Mount, NetworkEndpoint, Resources, RestartPolicy
from bulkhead.model.health import Health
from bulkhead.model.lifecycle import Phase
from bulkhead.model.losses import Loss
from bulkhead.model.sample import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedContainer:
    """Everything the manager tells of one container."""

    id: str
    name: str
    spec: ContainerSpec
    image_id: str = ""
    path: str = ""
    args: tuple[str, ...] = ()
    phase: Phase = Phase.CREATED
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    created_at: int = 0
    started_at: int = 0
    finished_at: int = 0
    restart_count: int = 0
    links: tuple[str, ...] = ()
    endpoints: tuple[NetworkEndpoint, ...] = ()
    log_path: str = ""
    data_dir: str = ""
    health: Health | None = None
    ended_by: str = ""
    losses: tuple[Loss, ...] = ()
    upper_dir: str = ""
    lower_dirs: tuple[str, ...] = ()
    size_rw: int = -1
    size_root: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedContainer:
    """A container as a line of a list."""

    id: str
    name: str
    image: str = ""
    image_id: str = ""
    command: str = ""
    created_at: int = 0
    phase: Phase = Phase.CREATED
    exit_code: int = 0
    started_at: int = 0
    finished_at: int = 0
    health_status: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    network_mode: str = ""
    endpoints: tuple[NetworkEndpoint, ...] = ()
    mounts: tuple[Mount, ...] = ()
    size_rw: int = -1
    size_root: int = -1
    exposed_ports: tuple[str, ...] = ()
    link_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    id: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StdioAddress:
    """Where a container's stdio is reached, and what it offers."""

    id: str
    socket: str
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a wait ended; `error` is set when the exit code could not be learnt."""

    exit_code: int
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Containers(Protocol):
    async def create(self, name: str, spec: ContainerSpec) -> Created: ...

    async def list(self, *, all: bool, limit: int, size: bool, filters: Filters) -> Sequence[ListedContainer]: ...

    async def inspect(self, ref: str) -> InspectedContainer: ...

    async def inspect_with_execs(self, ref: str, *, size: bool = False) -> tuple[InspectedContainer, Sequence[str]]:
        """The ids of its execs that run beside it: it is the same object for as long as nothing else changes."""

    async def stdio(self, ref: str, *, attach: bool = False) -> StdioAddress:
        """Where its shim listens; that a client attaches is announced."""

    async def start(self, ref: str) -> None:
        """Raises NotModified when it runs already, LaunchFailed when its command cannot be run."""

    async def stop(self, ref: str, *, signal: str, timeout: int | None) -> None:
        """Raises NotModified when it does not run."""

    async def restart(self, ref: str, *, signal: str, timeout: int | None) -> None: ...

    async def kill(self, ref: str, signal: str) -> None: ...

    async def pause(self, ref: str) -> None: ...

    async def unpause(self, ref: str) -> None: ...

    def wait(self, ref: str, condition: str) -> AsyncGenerator[Exit | None]:
        """First None: the wait is armed. Then the exit."""

    async def resize(self, ref: str, height: int, width: int) -> None: ...

    async def rename(self, ref: str, name: str) -> None: ...

    async def remove(self, ref: str, *, force: bool, volumes: bool) -> None: ...

    async def unlink(self, name: str) -> None: ...

    async def prune(self, filters: Filters) -> tuple[Sequence[str], int]:
        """The ids of the removed and the bytes freed."""

    async def top(self, ref: str, ps_args: str) -> Processes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """Changes of a container; see updates.proto for what a default means."""

    ref: str
    resources: Resources
    restart_policy: RestartPolicy | None = None
    engine_host_config: bytes = b""


class Updates(Protocol):
    async def update(self, wanted: Update) -> None:
        """Raises NotFound, Conflict, InvalidArgument, Internal with Docker's texts."""


class Statistics(Protocol):
    async def snapshot(self) -> Sequence[Sample]:
        """What every running container has used up to now."""

    def watch(self, ref: str, *, stream: bool, immediately: bool) -> AsyncGenerator[Sample]:
        """Samples of a container; see statistics.proto. Raises NotFound, Unavailable."""
