"""What the API asks of the rest of the engine, and in which shapes it gets the answers.

Every method raises errors of `bulkhead.errors`; `Unavailable` names the service that is away. `ref` is a full
id, a name or a unique id prefix. Times are Unix nanoseconds, 0 = never.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bulkhead.api.call import Filters
from bulkhead.api.connection import End
from bulkhead.errors import Unavailable
from bulkhead.model.container import ContainerSpec, Mount, NetworkEndpoint, Resources, RestartPolicy
from bulkhead.model.execs import ExecSpec
from bulkhead.model.health import Health
from bulkhead.model.lifecycle import Phase
from bulkhead.model.losses import Loss
from bulkhead.model.network import AddressBlock, NetworkRecord
from bulkhead.model.sample import Sample
from bulkhead.model.volume import Volume

# -- containers


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


# -- execs


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PathStat:
    """What is at a path of a container; `mode` as in stat(2)."""

    name: str
    size: int = 0
    mode: int = 0
    mtime: int = 0
    link_target: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpack:
    """An archive's destination. `keep_kinds`: directories and other things do not replace each other. `as_user`:
    everything becomes the container's user's."""

    ref: str
    path: str
    keep_kinds: bool = False
    as_user: bool = False


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


class Archives(Protocol):
    async def look(self, ref: str, path: str) -> PathStat: ...

    def read(self, ref: str, path: str) -> AsyncGenerator[PathStat | bytes]:
        """First what is there, then its tar. Raises NotFound with Docker's text."""

    async def write(self, where: Unpack, data: AsyncIterator[bytes]) -> None:
        """Unpack a tar, compressed or not. Raises NotFound, InvalidArgument, Forbidden for what is read-only."""


class Statistics(Protocol):
    async def snapshot(self) -> Sequence[Sample]:
        """What every running container has used up to now."""

    def watch(self, ref: str, *, stream: bool, immediately: bool) -> AsyncGenerator[Sample]:
        """Samples of a container; see statistics.proto. Raises NotFound, Unavailable."""


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


# -- the data road


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


class ShimExecs(Protocol):
    """Execs at their container's shim, without the manager; None is for him to say: to do, or why not."""

    async def create(self, ref: str, spec: ExecSpec) -> str | None:
        """The id of the new exec."""

    def ended(self, exec_id: str) -> InspectedExec | None:
        """One that has ended a moment ago."""

    async def start(self, exec_id: str, height: int, width: int) -> tuple[ProcessEnd, bool] | None:
        """The duplex stream of what has been started, and whether it is a terminal's; of the size that it was created
        with, or that is given. Unavailable when the shim was asked, and does not say what came of it."""


# -- images


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryAuth:
    username: str = ""
    password: str = ""
    server_address: str = ""
    identity_token: str = ""
    registry_token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One line of a pull, push or load; `aux` is JSON."""

    id: str = ""
    status: str = ""
    current: int = 0
    total: int = 0
    stream: str = ""
    aux: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """What of an image is here: its manifest, bytes of its blobs, its platform; its containers' ids for who asks."""

    manifest_digest: str = ""
    manifest_media_type: str = ""
    manifest_size: int = 0
    content_size: int = 0
    os: str = ""
    architecture: str = ""
    variant: str = ""
    container_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedImage:
    id: str
    repo_tags: tuple[str, ...] = ()
    repo_digests: tuple[str, ...] = ()
    created_at: int = 0
    size: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    containers: int = 0
    shared_size: int = 0
    presence: Presence = field(default_factory=Presence)


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedImage:
    """An image; `config` is its config blob, JSON made by strangers."""

    id: str
    repo_tags: tuple[str, ...] = ()
    repo_digests: tuple[str, ...] = ()
    size: int = 0
    config: bytes = b"{}"
    tagged_at: int = 0
    manifest_digest: str = ""
    manifest_media_type: str = ""
    manifest_size: int = 0
    presence: Presence = field(default_factory=Presence)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    id: str = ""
    created_at: int = 0
    created_by: str = ""
    tags: tuple[str, ...] = ()
    size: int = 0
    comment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedImage:
    """One of the two is set."""

    untagged: str = ""
    deleted: str = ""


class Images(Protocol):
    """Streams raise what ends them early; before their first item, that is the request's own error."""

    def pull(
        self, reference: str, *, platform: str, auth: RegistryAuth | None, all_tags: bool
    ) -> AsyncGenerator[Progress]: ...

    def push(self, reference: str, *, auth: RegistryAuth | None, all_tags: bool) -> AsyncGenerator[Progress]: ...

    async def list(self, *, all: bool, filters: Filters, container_ids: bool = False) -> Sequence[ListedImage]: ...

    async def inspect(self, ref: str, *, container_ids: bool = False) -> InspectedImage: ...

    async def history(self, ref: str) -> Sequence[HistoryEntry]: ...

    async def tag(self, ref: str, target: str) -> None: ...

    async def remove(self, ref: str, *, force: bool, no_prune: bool) -> Sequence[RemovedImage]: ...

    async def prune(self, filters: Filters) -> tuple[Sequence[RemovedImage], int]: ...

    def load(self, data: AsyncIterator[bytes], *, quiet: bool, platform: str) -> AsyncGenerator[Progress]: ...

    def save(self, refs: Sequence[str]) -> AsyncGenerator[bytes]: ...


# -- registries


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    name: str
    description: str = ""
    star_count: int = 0
    is_official: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    os: str = ""
    architecture: str = ""
    variant: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedImage:
    """A manifest or index in a registry, and what it is for."""

    digest: str
    media_type: str = ""
    size: int = 0
    platforms: tuple[Platform, ...] = ()


class Registries(Protocol):
    async def search(
        self, term: str, *, limit: int, filters: Filters, auth: RegistryAuth | None
    ) -> Sequence[SearchResult]: ...

    async def inspect(self, reference: str, *, auth: RegistryAuth | None) -> DistributedImage: ...


# -- containers' files


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """An image to be made of a container; `name` is familiar, `config` what the body says."""

    ref: str
    name: str = ""
    author: str = ""
    comment: str = ""
    pause: bool = True
    changes: tuple[str, ...] = ()
    config: ContainerSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """An image to be made of a tar; `source` is a URL, or `-` for what the client sends."""

    source: str
    name: str = ""
    message: str = ""
    changes: tuple[str, ...] = ()
    platform: str = ""


class Filesystems(Protocol):
    def export(self, ref: str) -> AsyncGenerator[bytes]:
        """The tar of a container's files."""

    def changes(self, ref: str) -> AsyncGenerator[Sequence[tuple[str, bytes]]]:
        """Some at a time: C, A or D, and a path without a slash at its beginning."""

    async def commit(self, wanted: Commit) -> str:
        """The id of the new image."""

    def import_image(self, wanted: Import, data: AsyncIterator[bytes]) -> AsyncGenerator[Progress]: ...


# -- networks


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkMember:
    """A container that runs and is plugged in."""

    container_id: str = ""
    container_name: str = ""
    endpoint_id: str = ""
    mac: str = ""
    address: str = ""
    prefix_len: int = 0
    address6: str = ""
    prefix_len6: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedNetwork:
    """A network, and who is on it when that was asked for."""

    id: str
    name: str
    driver: str = ""
    blocks: tuple[AddressBlock, ...] = ()
    internal: bool = False
    attachable: bool = False
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    ipam_options: Mapping[str, str] = field(default_factory=dict)
    # Whether the user told any, be they none.
    ipam_options_told: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at: int = 0
    members: tuple[NetworkMember, ...] = ()


class Networks(Protocol):
    async def create(self, wanted: NetworkRecord) -> str:
        """A new network's id."""

    async def list(self, filters: Filters) -> Sequence[InspectedNetwork]: ...

    async def inspect(self, ref: str) -> InspectedNetwork: ...

    async def remove(self, ref: str) -> None: ...

    async def prune(self, filters: Filters) -> Sequence[str]:
        """Names of what went."""

    async def connect(self, ref: str, container: str, wish: NetworkEndpoint) -> None: ...

    async def disconnect(self, ref: str, container: str, *, force: bool) -> None: ...


# -- volumes


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedVolume:
    """A volume and where its files are; `size` in bytes, -1 when it was not measured."""

    name: str
    driver: str = "local"
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    created_at: int = 0
    mountpoint: str = ""
    size: int = -1
    references: int = 0


class Volumes(Protocol):
    async def create(self, wanted: Volume) -> InspectedVolume:
        """The volume of that name, made when it is not there."""

    async def list(self, *, filters: Filters, usage: bool = False) -> Sequence[InspectedVolume]: ...

    async def inspect(self, name: str) -> InspectedVolume: ...

    async def remove(self, name: str, *, force: bool) -> None: ...

    async def prune(self, filters: Filters) -> tuple[Sequence[str], int]:
        """Names of what went, and the bytes that it took."""


# -- system


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


# -- the machine


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


class Logins(Protocol):
    async def login(self, auth: RegistryAuth) -> str:
        """An identity token, mostly empty, when the registry at `auth.server_address` accepts the credentials.

        Raises Unauthorized when it does not, Unavailable when it cannot be asked.
        """
