"""The launcher port on another OCI runtime, driven by its command line: runc, crun, or whatever is configured.

Create and exec run in a fork of the shim with its own mount namespace, which holds the overlay while the runtime
makes the container; the container's own namespace holds it from then on, and the host's never does. The runtime
leaves the process to its nearest subreaper, the shim.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import stat
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from bulkhead.errors import (
    BulkheadError,
    Conflict,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    LaunchFailed,
    ResourceExhausted,
)
from bulkhead.linux import fdpass, mounts, overlay, pidfd, private_mounts
from bulkhead.linux.cgroups import Cgroup, hierarchies
from bulkhead.runtime import launch, translate
from bulkhead.shim import bundle
from bulkhead.shim.adapters import oci_bundle
from bulkhead.shim.adapters.forked import Answer, Child
from bulkhead.shim.adapters.oci_command import LONG_SECONDS, CommandFailed, OciCommand
from bulkhead.shim.ports import Further, Rootfs, Stdio

_CREATE = "failed to create shim task: OCI runtime create failed: "
_START = "failed to start shim task: OCI runtime start failed: "
_EXEC = "OCI runtime exec failed: "
_CONSOLE_SECONDS = 10.0
_CONSOLE = "console.sock"
_FULL = (28, 122)  # ENOSPC, EDQUOT
# Words by which Docker tells a program that is not there, or cannot be run, from any other failure.
_NOT_FOUND = ("executable file not found", "no such file or directory", "executable file `")
_NOT_EXECUTABLE = ("permission denied", "is a directory", "not a directory", "exec format error", "open executable: ")


@dataclass(slots=True, kw_only=True)
class CommandGroup:
    """The container's cgroup, frozen and removed by its runtime, which keeps account of it."""

    command: OciCommand
    group: Cgroup

    @property
    def path(self) -> str:
        return self.group.path

    def pids(self) -> list[int]:
        return self.group.pids()

    def kill_all(self) -> None:
        self.group.kill_all()

    def freeze(self) -> None:
        self.command.run("pause", self.command.container_id)

    def thaw(self) -> None:
        try:
            self.command.run("resume", self.command.container_id)
        except CommandFailed:
            # It says so too of a container that has just been killed.
            if self.group.exists() and self.group.is_frozen():
                raise

    def is_frozen(self) -> bool:
        return self.group.is_frozen()

    def oom_kills(self) -> int:
        return self.group.oom_kills()

    def remove(self) -> None:
        self.command.remove()
        self.group.remove()


@dataclass(slots=True, kw_only=True)
class CommandTask:
    """A container's first process, made by a runtime of others."""

    pid: int
    pidfd: int
    start_time: int
    cgroup: CommandGroup
    console: int | None = None
    warnings: tuple[str, ...] = ()

    def hold_root(self) -> int:
        """It is the runtime's."""
        return -1

    def start(self) -> None:
        """Raises LaunchFailed; the process is dead then."""
        command = self.cgroup.command
        try:
            command.run("start", command.container_id, limit=LONG_SECONDS)
        except (CommandFailed, DeadlineExceeded) as error:
            self.cgroup.kill_all()
            pidfd.send_signal(self.pidfd, signal.SIGKILL)
            raise _launch_failed(_START, error) from error

    def rest(self) -> None:
        """The runtime holds nothing."""

    def signal(self, number: int) -> None:
        """By the runtime: only it knows where the signal has to go. ProcessLookupError when it has ended."""
        command = self.cgroup.command
        signal.pidfd_send_signal(self.pidfd, 0)
        try:
            command.run("kill", command.container_id, str(number))
        except (CommandFailed, DeadlineExceeded):
            # What must die dies; another signal to one that has ended meanwhile is no failure of the runtime.
            signal.pidfd_send_signal(self.pidfd, number if number == signal.SIGKILL else 0)
            if number != signal.SIGKILL:
                raise

    def close(self) -> None:
        for fd in (self.pidfd, self.console):
            if fd is not None and fd >= 0:
                os.close(fd)
        self.pidfd, self.console = -1, None


class CommandLauncher:
    """Launches by `OciCommand`; the runtime of each container is told at each call."""

    def create(
        self,
        *,
        container_id: str,
        data_dir: str,
        terminal: bool,
        rootfs: Rootfs | None,
        stdio: Stdio,
        runtime: Sequence[str],
    ) -> CommandTask:
        command = OciCommand(container_id=container_id, data_dir=data_dir, command=tuple(runtime))
        told, pid_descriptor, console = _outcome(Child.working(lambda: _create(command, terminal, rootfs, stdio)))
        return CommandTask(
            pid=told["pid"],
            pidfd=pid_descriptor,
            start_time=told["start_time"],
            cgroup=CommandGroup(command=command, group=Cgroup(told["cgroup"])),
            console=console,
        )

    def adopt(
        self,
        *,
        container_id: str,
        data_dir: str,
        pid: int,
        start_time: int,
        cgroup: str,
        runtime: Sequence[str],
    ) -> CommandTask:
        """NotFound for a container that was not started, too: nobody waits for it any more."""
        command = OciCommand(container_id=container_id, data_dir=data_dir, command=tuple(runtime))
        if command.state() == "created":
            _forget(command)
        found = launch.adopt(
            container_id=container_id, pid=pid, start_time=start_time, config={"linux": {"cgroupsPath": cgroup}}
        )
        group = CommandGroup(command=command, group=found.cgroup)
        return CommandTask(pid=pid, pidfd=found.pidfd, start_time=start_time, cgroup=group)

    def exec(self, *, task: CommandTask, data_dir: str, process: Mapping[str, Any], stdio: Stdio) -> Further:
        command = task.cgroup.command
        told, pid_descriptor, console = _outcome(Child.working(lambda: _exec(command, task, process, stdio)))
        return launch.ExecProcess(pid=told["pid"], pidfd=pid_descriptor, console=console)

    def release(self, *, container_id: str, data_dir: str, cgroup: str, runtime: Sequence[str]) -> None:
        """Remove what a container that has ended has left. Raises OSError."""
        OciCommand(container_id=container_id, data_dir=data_dir, command=tuple(runtime)).remove()
        Cgroup(cgroup).remove()


def _outcome(child: Child) -> tuple[dict[str, Any], int, int | None]:
    try:
        told, descriptors = child.outcome()
    finally:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child.pid, 0)
    if not 1 <= len(descriptors) <= 2:
        raise Internal("cannot launch the process: descriptors are missing")
    return told, descriptors[0], descriptors[1] if len(descriptors) > 1 else None


# ---- in the child ----


def _create(command: OciCommand, terminal: bool, rootfs: Rootfs | None, stdio: Stdio) -> Answer:
    config = bundle.read(command.data_dir)
    if bundle.has_terminal(config) is not terminal:
        raise InvalidArgument(f"cannot read {command.data_dir}/config.json: it names a terminal twice")
    cgroup = (config.get("linux") or {}).get("cgroupsPath") or f"/{command.container_id}"
    with ExitStack() as undo:
        undo.callback(_undo, command)
        _prepare(command, config, rootfs)
        pid, console = _launch(command, "create", terminal, stdio, _CREATE, "--bundle", command.directory)
        answer, descriptors = _described(pid, console)
        undo.pop_all()
    return answer | {"cgroup": cgroup}, descriptors, lambda: _undo(command)


def _prepare(command: OciCommand, config: Mapping[str, Any], rootfs: Rootfs | None) -> None:
    """The bundle, with the root file system mounted where only this process and its children see it."""
    try:
        command.begin()
        os.chdir(command.directory)
        _enter_private_mounts()
        place = command.rootfs if rootfs is not None else config["root"]["path"]
        if rootfs is not None:
            _mount(rootfs, place)
        config = _with_subpaths(command, config)
        root = oci_bundle.open_root(place)
        try:
            oci_bundle.write(command.directory, config, place, root)
        finally:
            os.close(root)
    except OSError as error:
        kind = ResourceExhausted if error.errno in _FULL else Internal
        raise kind(f"cannot prepare the bundle of {command.container_id}: {error.strerror}") from error


def _enter_private_mounts() -> None:
    """A v2 tree beside v1 hierarchies is hidden: crun refuses to work where controllers are left in it."""
    private_mounts.enter()
    found = hierarchies()
    if found.v1 and found.unified:
        private_mounts.hide(found.unified)


def _mount(rootfs: Rootfs, place: str) -> None:
    if rootfs.volatile:
        overlay.forgive_volatile(rootfs.work)
    private_mounts.mount_overlay(
        place, lower=rootfs.lower, upper=rootfs.upper, work=rootfs.work, volatile=rootfs.volatile
    )


def _with_subpaths(command: OciCommand, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config with what is below a volume mounted here, opened once, and named as the source."""
    entries = []
    for entry in config.get("mounts") or ():
        subpath = translate.subpath(config, entry)
        if subpath:
            recursive = "rbind" in (entry.get("options") or ())
            tree = mounts.clone_below(entry["source"], subpath, recursive=recursive)
            place = command.make_source(is_directory=stat.S_ISDIR(os.fstat(tree).st_mode))
            private_mounts.attach(tree, place)
            entry = {**entry, "source": place}
        entries.append(entry)
    return {**config, "mounts": entries}


def _undo(command: OciCommand) -> None:
    """In a child that may have mounted the root file system, and sources."""
    for place in (*command.sources(), command.rootfs):
        with contextlib.suppress(OSError):
            private_mounts.hide(place)
    _forget(command)


def _forget(command: OciCommand) -> None:
    with contextlib.suppress(OSError):
        command.remove()


def _exec(command: OciCommand, task: CommandTask, process: Mapping[str, Any], stdio: Stdio) -> Answer:
    config = bundle.read(command.data_dir)
    path = f"{command.directory}/process.json"
    merged = translate.merged_process(config, process)
    try:
        os.chdir(command.directory)
        _enter_private_mounts()
        root = oci_bundle.open_root(f"/proc/{task.pid}/root")
        try:
            signal.pidfd_send_signal(task.pidfd, 0)  # it was that process's root, then
            oci_bundle.write_process(path, config, merged, root)
        finally:
            os.close(root)
    except (ProcessLookupError, FileNotFoundError) as error:
        raise Conflict(f"cannot exec in container {command.container_id}: it has stopped") from error
    try:
        terminal = bool(merged.get("terminal"))
        pid, console = _launch(command, "exec", terminal, stdio, _EXEC, "--process", path, "--detach")
    finally:
        os.unlink(path)  # noqa: PTH108 -- see linux.atomicfile
    answer, descriptors = _described(pid, console)
    return answer, descriptors, None


def _launch(
    command: OciCommand, verb: str, terminal: bool, stdio: Stdio, prefix: str, *flags: str
) -> tuple[int, int | None]:
    """The process's pid and the master of its terminal. Raises LaunchFailed."""
    try:
        if not terminal:
            return command.launch(verb, *flags, stdio=stdio), None
        with _console() as listener:
            pid = command.launch(verb, *flags, "--console-socket", _CONSOLE, stdio=Stdio())
            return pid, _received(listener)
    except (CommandFailed, DeadlineExceeded) as error:
        raise _launch_failed(prefix, error) from error


@contextlib.contextmanager
def _console() -> Any:
    """A socket in the current directory, the container's own: nobody else gets there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_CONSOLE)  # noqa: PTH108
        listener.bind(_CONSOLE)
        listener.listen(1)
        try:
            yield listener
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_CONSOLE)  # noqa: PTH108


def _received(listener: socket.socket) -> int:
    """The one descriptor that the runtime has sent by the time it ends."""
    listener.settimeout(_CONSOLE_SECONDS)
    try:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(None)
            if not select.select([connection], [], [], _CONSOLE_SECONDS)[0]:
                raise TimeoutError
            _, descriptors = fdpass.receive(connection, 4096, 1)
    except OSError as error:
        raise CommandFailed(f"it sent no terminal: {error}") from error
    if len(descriptors) != 1:
        raise CommandFailed("it sent no terminal")
    return descriptors[0]


def _described(pid: int, console: int | None) -> tuple[dict[str, Any], list[int]]:
    """The shim, its parent, does not reap while it waits for this answer: the pid is that process's."""
    descriptor = pidfd.open_pid(pid)
    answer = {"pid": pid, "start_time": pidfd.start_time(pid)}
    return answer, [descriptor] if console is None else [descriptor, console]


def _launch_failed(prefix: str, error: BulkheadError) -> LaunchFailed:
    text = str(error)
    return LaunchFailed(f"{prefix}{text}: unknown", step="runtime", exit_code=_exit_code(text))


def _exit_code(text: str) -> int:
    """126, 127 or 128 by the runtime's words, as Docker has it."""
    lowered = text.lower()
    if any(words in lowered for words in _NOT_FOUND):
        return 127
    return 126 if any(words in lowered for words in _NOT_EXECUTABLE) else 128
