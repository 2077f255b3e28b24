"""The engine as a whole, and the machine that it is on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bulkhead.api.call import Filters


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    engine_id: str = ""
    containers: int = 0
    running: int = 0
    paused: int = 0
    stopped: int = 0
    images: int = 0
    data_dir: str = ""
    cgroup_version: int = 1
    warnings: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()
    insecure_registries: tuple[str, ...] = ()
    runtimes: Mapping[str, str] = field(default_factory=dict)
    default_runtime: str = "bulkhead"
    logging_driver: str = "json-file"
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    remaps_users: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEvent:
    """An entry of the journal; `sequence` grows by one and survives restarts."""

    sequence: int = 0
    type: str = ""
    action: str = ""
    actor_id: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    time: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOperation:
    """Something under way: `age` and `seconds` (its deadline, 0 = none of its own) in seconds."""

    name: str
    object: str = ""
    phase: str = ""
    age: float = 0.0
    seconds: float = 0.0
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineActivity:
    """What the manager does now, and how often it has done what costs since it was started."""

    operations: Sequence[EngineOperation] = ()
    counts: Mapping[str, int] = field(default_factory=dict)


class System(Protocol):
    async def info(self) -> EngineInfo: ...

    def events(self, *, since: int | None, until: int | None, filters: Filters) -> AsyncGenerator[EngineEvent | None]:
        """First None: subscribed. Then the journal from `since`, then what happens, until `until`."""

    async def activity(self) -> EngineActivity:
        """What the manager does right now; answered within seconds, or not at all."""

    async def layers_size(self) -> int:
        """Bytes that all layers take on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """CPUs and memory nodes that are there, as numbers and as the kernel writes them."""

    cpus: frozenset[int]
    cpus_text: str
    memory_nodes: frozenset[int]
    memory_nodes_text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Facts of the host that info and validation need."""

    host: Host
    hostname: str = ""
    kernel: str = ""
    system: str = ""
    system_version: str = ""
    architecture: str = ""
    go_architecture: str = ""
    language: str = ""
    memory: int = 0
    forwarding: bool = False
    open_files: int = 0
    backing_filesystem: str = ""
