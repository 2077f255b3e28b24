"""What the shim needs of the machine: a launcher of processes in containers.

The shapes are those of `bulkhead.runtime.launch`; a fake in tests forks plain processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bulkhead.shim.identity import Expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Rootfs:
    """An overlay that the container's own mount namespace will hold; `lower` is topmost first."""

    lower: tuple[str, ...]
    upper: str
    work: str
    volatile: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stdio:
    """Descriptors the process gets; -1 is /dev/null. A terminal takes their place when it asks for one."""

    stdin: int = -1
    stdout: int = -1
    stderr: int = -1


class Cgroup(Protocol):
    """The container's cgroup in every hierarchy."""

    @property
    def path(self) -> str: ...

    def pids(self) -> list[int]: ...

    def kill_all(self) -> None: ...

    def freeze(self) -> None: ...

    def thaw(self) -> None: ...

    def is_frozen(self) -> bool: ...

    def oom_kills(self) -> int: ...

    def remove(self) -> None: ...


class Process(Protocol):
    """A process in a container. Its descriptors are the taker's; `console` is the master of its terminal."""

    pid: int
    pidfd: int
    console: int | None
    warnings: tuple[str, ...]


class Further(Process, Protocol):
    """A process that has joined a container."""

    def settle(self) -> None:
        """Returns when it is known to have come to its program; raises what `Launcher.exec` raises, and it is dead."""


class Ready(Protocol):
    """What was made ahead for a process in a container, with the `stdio` that it was told of."""

    def close(self) -> None:
        """Let go of it, whether it was used or not."""


class Task(Process, Protocol):
    """A container's first process, parked before its exec until `start`."""

    start_time: int

    @property
    def cgroup(self) -> Cgroup: ...

    def signal(self, number: int) -> None:
        """Send a signal to it. ProcessLookupError when it has ended."""

    def hold_root(self) -> int:
        """A descriptor that keeps the mount of its root alive; -1 where that is not ours to do. OSError."""

    def start(self) -> None:
        """Returns when the exec succeeded; LaunchFailed otherwise, and the process is dead."""

    def rest(self) -> None:
        """Nobody may want to join it for a while: let go of what is held for that."""

    def close(self) -> None:
        """Let go of the descriptors that were not taken; a process that was never started ends."""


class Launcher(Protocol):
    """Brings processes to life in containers, synchronously, as children of this process.

    `data_dir` holds the bundle. `runtime` is the command of the OCI runtime that shall do it, empty for the engine's
    own core. `planned` is what the bundle, or the process, comes to, where somebody has worked it out. `network` is
    the path of a network namespace that the container gets instead of a new one, and its inode. Raises
    LaunchFailed when the kernel or the runtime refuses, InvalidArgument for a bad bundle.
    """

    def expect(self, expected: Expected) -> None:
        """A container is about to be created: make ready what most have, and what is known of this one."""

    def dismiss(self) -> None:
        """None is to be created any more: let go of that. Raises OSError."""

    def create(
        self,
        *,
        container_id: str,
        data_dir: str,
        terminal: bool,
        rootfs: Rootfs | None,
        stdio: Stdio,
        runtime: Sequence[str] = (),
        planned: bytes = b"",
        network: tuple[str, int] | None = None,
        begun: Callable[[Task], None],
        go: Callable[[Task, int], None] | None = None,
    ) -> Task:
        """`begun` may be told of the task, which wants its console and its warnings then, while its process still
        builds itself. What it raises ends the launch.

        `go`, if it is given, may be told of it before its process goes on to its program without being parked, with a
        descriptor that keeps the mount of its root alive (-1: none), the taker's; what it raises ends the launch.
        `Task.start` comes after it all the same.
        """

    def adopt(
        self, *, container_id: str, data_dir: str, pid: int, start_time: int, cgroup: str, runtime: Sequence[str] = ()
    ) -> Task:
        """Take over a live container of a shim that died; NotFound when it is gone."""

    def ready(self, *, task: Task, planned: bytes, stdio: Stdio) -> Ready | None:
        """This may be wanted soon: make what leaves the container alone. None where there is nothing to make."""

    def exec(
        self,
        *,
        task: Task,
        data_dir: str,
        process: Mapping[str, Any],
        stdio: Stdio,
        planned: bytes = b"",
        ready: Ready | None = None,
        begun: Callable[[], None] | None = None,
        settled: bool = True,
    ) -> Further:
        """With what is `ready` for just this, if anything is; it stays the caller's.

        `begun` is called, if it is given, once at most: when the process is on its way, or soon will be. Unless it is
        to be `settled`, what becomes of it may not be known yet.
        """
        ...

    def reap(self, pidfd: int) -> int | None:
        """The exit code (0..255, 128+n for signal n) of a child that has ended; None while it runs.

        ChildProcessError when it is not this process's child, or was reaped already.
        """

    def group(self, cgroup: str) -> Cgroup:
        """The cgroup of a container that has ended. Raises OSError."""

    def release(self, *, container_id: str, data_dir: str, cgroup: str, runtime: Sequence[str] = ()) -> None:
        """Remove what a container has left, its cgroup above all, after its process is gone. Raises OSError."""
