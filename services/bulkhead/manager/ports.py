"""What the manager's core asks of the world: records, shims, images, writable layers.

`Network` is the network's own port (`bulkhead.manager.networks.ports`). Implementations are wired in `app.py`
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bulkhead.errors import Unavailable
from bulkhead.manager.index import Index
from bulkhead.model.container import Container
from bulkhead.model.events import Event
from bulkhead.model.execs import Exec
from bulkhead.model.health import Health
from bulkhead.model.image import ImageConfig
from bulkhead.model.losses import Loss
from bulkhead.model.network import NetworkRecord, Relay
from bulkhead.model.volume import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One transaction: what it writes, and what it announces once that is committed."""

    create: Container | None = None
    update: Container | None = None
    remove: str = ""
    intent: str = ""  # operation begun on the updated, created or `about` container
    done: bool = False  # the operation begun earlier has ended
    done_of: str = ""  # the same, unless another operation has begun since
    about: str = ""  # the container of an intent or its end when nothing else names it
    volumes: tuple[Volume, ...] = ()  # new ones
    network: NetworkRecord | None = None  # a new one
    drop_network: str = ""  # its id
    drop_volumes: tuple[str, ...] = ()  # removed: marked until their directories are gone
    forget_volumes: tuple[str, ...] = ()  # whose directories are gone
    events: tuple[Event, ...] = ()


class Records(Protocol):
    """The manager's memory: every change is one transaction, mirrored in `index` after its commit."""

    @property
    def index(self) -> Index: ...

    @property
    def intents(self) -> dict[str, str]:
        """Operations that were begun and not ended when the records were opened: container id -> operation."""

    @property
    def volumes(self) -> Mapping[str, Volume]:
        """The volumes by name, without those that are marked removed."""

    @property
    def networks(self) -> Mapping[str, NetworkRecord]:
        """The networks that users made, by id."""

    @property
    def removed_volumes(self) -> Sequence[str]:
        """Volumes that were marked removed, and not forgotten, when the records were opened."""

    async def commit(
        self,
        change: Change,
        *,
        durable: bool = False,
        first: Callable[[], object] | None = None,
        then: Callable[[], object] | None = None,
    ) -> None:
        """Write `change`, all or nothing. With `durable` it survives power loss.

        What blocks is done in the same thread: `first`, which may raise, before; `then`, which must not, after the
        write, and nobody waits for it.

        Raises Conflict for a name that is taken, ResourceExhausted when the disk is full.
        """

    async def written(self) -> None:
        """Returns when each change that was to be written is, or is refused; whoever has given up waiting for it.

        Not one with a `first` that has not ended.
        """

    def exec(self, exec_id: str) -> Exec | None: ...

    def execs(self, container_id: str = "") -> list[Exec]:
        """All execs, or those of one container, oldest first."""

    def unended_execs(self, container_id: str) -> list[Exec]:
        """Those of one container that have not ended, oldest first; however many have."""

    @property
    def exec_short_ids(self) -> Set[str]: ...

    async def save_exec(self, record: Exec, *events: Event) -> None: ...

    @property
    def owed_execs(self) -> int:
        """How many calls of `save_exec_later` have not reached the file; without those it refused."""

    def save_exec_later(self, record: Exec, *events: Event, seconds: float) -> None:
        """True from now on, for readers; in the file within `seconds`, with what is owed to that already, and before or
        with whatever else is written of it.

        If the file does not take it then, that is logged, and the next `save_exec` of it tries again.
        """

    async def drop_execs(self, exec_ids: Sequence[str]) -> None: ...

    async def meta(self, key: str) -> str | None: ...

    async def set_meta(self, key: str, value: str) -> None: ...


class Journal(Protocol):
    """The durable, numbered journal of events."""

    async def write(self, *events: Event) -> None:
        """Append events that belong to no change of a record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayDirs:
    """A container's root file system: `lower` topmost first, absolute host paths."""

    lower: tuple[str, ...]
    upper: str
    work: str


class ResolvedImage(Protocol):
    """An image that is here, whole."""

    @property
    def id(self) -> str: ...
    @property
    def config(self) -> ImageConfig: ...


class Images(Protocol):
    async def resolve(self, ref: str, platform: str = "") -> ResolvedImage:
        """The image that `ref` means. Raises NotFound (`No such image: x:latest`), InvalidArgument."""

    def holding(self, image_id: str) -> AbstractContextManager[None]:
        """Nobody removes the image while entered."""


class Dirs(Protocol):
    """What `OverlayDirs` says, by whatever type the snapshots' adapter has."""

    @property
    def lower(self) -> tuple[str, ...]: ...
    @property
    def upper(self) -> str: ...
    @property
    def work(self) -> str: ...


class Snapshots(Protocol):
    def dirs(self, container_id: str, image_id: str) -> Dirs:
        """Where a container's writable layer above its image is, or will be. Raises NotFound without the image."""

    def make(self, container_id: str, dirs: Dirs) -> None:
        """Make what is not there of a writable layer. Blocking. Raises ResourceExhausted, Internal."""

    def make_below(self, dirs: Dirs, path: str) -> None:
        """Make a directory, and those above it, where the two layers have none. Blocking; of a layer that was made.

        Raises InvalidArgument with Docker's text when it cannot be one, ResourceExhausted, Internal.
        """

    async def prepare(self, container_id: str, image_id: str) -> Dirs:
        """Make, or find as they are, the writable layer of a container above its image."""

    def clear(self, container_id: str) -> None:
        """Take the writable layer away; no error when there is none. Blocking. Raises ResourceExhausted, Internal."""

    def let_go(self) -> None:
        """A container has let go of its image: that may be in nobody's way any more."""

    async def usage(self, container_id: str) -> int:
        """Bytes in the writable layer."""

    async def usages(self, container_ids: Sequence[str]) -> list[int]:
        """The same of many, in their order."""


class Trash(Protocol):
    def throw(self, path: Path) -> bool:
        """Take a file or tree out of sight, to be deleted later; whether it was there.

        Raises ResourceExhausted, Internal.
        """


class Spares(Protocol):
    """Containers' data directories, which go from those that are removed to those that come next. Blocking."""

    def take(self, place: Path) -> bool:
        """Have an empty, private directory at `place`, where there is none, unless there is none to have."""

    def clear(self, place: Path) -> None:
        """Take away what a container has left there, if anything. Raises ResourceExhausted, Internal."""


class OomNotices(Protocol):
    """Word of a cgroup that has run out of memory."""

    def fileno(self) -> int:
        """Readable when there may be news."""

    def kills(self) -> int:
        """How many processes the kernel has killed for it so far; what was news is none any more. Raises OSError."""

    def close(self) -> None: ...


class Groups(Protocol):
    """The cgroups of this installation's containers, by id. Blocking."""

    def names(self) -> frozenset[str]: ...

    def remove(self, name: str) -> None:
        """Kill everything in it and remove it, if it is there. Raises Internal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """How a shim keeps the log, as in protos/bulkhead/shim/v1/shim.proto; sizes in bytes, 0 = never rotate."""

    driver: str = "json-file"
    path: str = ""
    max_size: int = 0
    max_file: int = 1
    compress: bool = False
    attributes: bytes = b""
    non_blocking: bool = False
    max_buffer: int = 0
    destination: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What a shim needs beside `config.json` in the container's data directory."""

    directory: Path
    rootfs: Dirs | None
    volatile: bool
    log: LogOptions
    open_stdin: bool
    stdin_once: bool
    height: int = 0
    width: int = 0
    runtime: tuple[str, ...] = ()
    # What config.json comes to, if that was worked out (`manager.planning`).
    planned: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A process parked before its exec, in the host's pid namespace, or started in Unix nanoseconds."""

    pid: int
    start_time: int
    warnings: tuple[str, ...] = ()
    started_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a process ended; `at` in Unix nanoseconds."""

    code: int
    at: int
    oom_killed: bool = False
    losses: tuple[Loss, ...] = ()
    oom_kills: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownExec:
    """An exec as its shim was asked to run it, and when it began and ended, if it has."""

    record: Exec
    exited_at: int = 0
    began_at: int = 0
    exit_code: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShimState:
    """What a shim says of its container: phase new, created, running, paused or exited."""

    phase: str
    pid: int = 0
    start_time: int = 0
    exit_code: int | None = None
    started_at: int = 0
    exited_at: int = 0
    oom_killed: bool = False
    losses: tuple[Loss, ...] = ()
    # Nobody is attached to its streams, by its own word.
    unattended: bool = False
    # If that was asked for.
    execs: tuple[KnownExec, ...] = ()
    oom_kills: int = 0

    @property
    def alive(self) -> bool:
        return self.phase in ("running", "paused")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedExec:
    """A process to run; `size` is its terminal's height and width, 0 = leave it."""

    record: Exec
    process: dict[str, Any]
    stdin: bool
    size: tuple[int, int]
    planned: bytes = b""

    @property
    def exec_id(self) -> str:
        return self.record.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Lasting:
    """When an exec began, and its exit code if it is over."""

    began_at: int
    exit_code: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expecting:
    """What its shim tells of an exec: None from a shim of an earlier release, at once; Conflict when it never begins.

    `kept`: whatever becomes of us, the shim knows the exec, and tells whoever comes after us (`ShimState.execs`).
    """

    kept: bool
    told: Coroutine[Any, Any, Lasting | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecState:
    """What a shim says of an exec: phase created, running or exited."""

    phase: str
    pid: int = 0
    exit_code: int | None = None


class Shim(Protocol):
    """One container's shim. Calls have their own deadlines, but those that wait; Unavailable when it is gone."""

    @property
    def gone(self) -> bool:
        """Whether it has died, or left."""

    async def state(self, *, execs: bool = False) -> ShimState: ...

    async def create(self, bundle: Bundle, *, start: bool = False, network: int = -1) -> Created:
        """Bring the container's process up to just before its exec, or with `start` beyond it.

        `network` is a descriptor of the network namespace that it gets instead of a new one: where there is one, all is
        plugged in, so it goes beyond its exec too. A shim of an earlier release may not know how: `started_at` tells,
        and what it has parked is in a namespace of its own.
        Raises LaunchFailed, and with `start` Internal when the process was ended before its program ran.
        """

    async def start(self) -> int:
        """Let it exec; when it did, in Unix nanoseconds. Raises LaunchFailed."""

    async def wait(self, exec_id: str = "") -> Exit:
        """How the container, or an exec of it, ended; the container's exit record is on disk by then."""

    async def take_exit(self) -> Exit:
        """How the container ended, for whoever puts that on record, durably, before anybody else hears of it.

        He wants no more of the shim, which may leave by itself.
        """

    async def kill(self, signal: int, *, exec_id: str = "", everyone: bool = False) -> None: ...

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...

    async def pids(self) -> list[int]:
        """The container's processes in the host's pid namespace."""

    async def create_exec(self, asked: AskedExec) -> None:
        """Register an exec."""

    def expect_exec(self, asked: AskedExec) -> Expecting:
        """Register an exec, and be told when it has run for a while, or has ended. The shim is asked already."""

    @property
    def tells_new_execs(self) -> bool:
        """Whether it can create execs by itself; a shim of an earlier release cannot."""

    async def new_execs(self, pattern: bytes = b"") -> None:
        """When it has told of execs for a while and nobody has read that. It creates none before it has a pattern, see
        shim.proto, and none while nobody is there who might hear of them."""

    def told_execs(self) -> Sequence[KnownExec]:
        """Those that it has created by itself, as it told since this was asked last, and what has become of them.

        Whoever knows of one knows it from a shim that had told of it before, and of its end likewise; what it has told
        outlives it.
        """

    def renew_news(self) -> None:
        """It can tell, though it may have hung up on us before. Raises Unavailable."""

    def end_news(self) -> None:
        """Nobody will hear of more."""

    async def start_exec(self, exec_id: str) -> int:
        """Start a registered exec; its pid. Raises LaunchFailed."""

    async def exec_state(self, exec_id: str) -> ExecState: ...

    async def begun(self, exec_id: str) -> None:
        """Answers when an exec runs, or has. Raises NotFound, Conflict when it never will."""

    async def resize(self, height: int, width: int, exec_id: str = "") -> None: ...

    async def health(self, after: int) -> Health:
        """The health once a probe newer than revision `after` has ended, or the container has. NotFound: no check."""

    async def serve_names(self) -> None:
        """Answer DNS in the container from the files of its networks; again after they have changed."""

    async def relay(self, relays: Sequence[Relay]) -> None:
        """Carry what comes to these ports of the host, and to no others, into the container. Raises Unavailable."""


class SupervisorAway(Unavailable):
    """There is nobody to ask for a shim. Where somebody is, shims may still die before they answer."""


class Shims(Protocol):
    """The shims of the instance, one per container at most."""

    async def ensure(self, container_id: str, *, network_given: bool = False, cgroup: str = "") -> Shim:
        """The container's live shim, or a new one that adopts what it finds; `network_given` tells it what will come
        with `create`, and so does `cgroup`, which it makes ahead if it is told. Raises Unavailable, SupervisorAway.
        """

    async def live(self, container_id: str) -> Shim | None:
        """The container's shim if one listens; never makes one."""

    async def discard(self, container_id: str) -> None:
        """End the shim and everything of the container that still runs; no error when there is none.

        Raises Internal when a process or its cgroup cannot be got rid of.
        """

    def began_at(self, container_id: str) -> int:
        """When a shim last told the container's program to begin, which it writes down before; 0 for never."""

    def left_execs(self, container_id: str) -> Sequence[KnownExec]:
        """How the last execs went that its shims have created by themselves, as far as they have left that behind."""

    async def break_off(self, container_id: str) -> None:
        """End a shim that does not answer, and nothing else: the next `ensure` makes one that adopts its container.

        No error when there is none. Raises Internal when it cannot be ended.
        """

    async def forget(self, container_id: str) -> None:
        """Close the connection; the shim lives on."""
