"""The launcher port on the engine's own runtime core, each launch in a short-lived fork of the shim.

The runtime touches two megabytes while it makes a container out of a config. A child that does it takes
them along when it ends; its descriptors come over by SCM_RIGHTS, and the container's process by the
kernel: the shim is the subreaper, so it becomes the parent, and reaps by pidfd as if it had forked it.
The child for the create is forked while the spare shim waits, so that nobody waits for the fork.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from bulkhead import nsexec
from bulkhead.errors import BulkheadError, Internal, InvalidArgument, LaunchFailed, NotFound
from bulkhead.linux import fdpass, process
from bulkhead.linux.cgroups import Cgroup
from bulkhead.runtime import defaults, launch
from bulkhead.runtime.rootfs import OverlayRootfs, StdioFds
from bulkhead.shim import bundle
from bulkhead.shim.ports import Process, Rootfs, Stdio, Task
from bulkhead.wire.status import error_named

_MESSAGE_LIMIT = 64 << 10
_TEXT_LIMIT = 16 << 10
# What to tell, which descriptors to send, and who owns these until they are sent.
Answer = tuple[dict[str, Any], Sequence[int], object]


def preload(cache: Path) -> None:
    """Make what every launch needs: the sealed stage, the table of cgroup mounts, Docker's seccomp filter."""
    launch.prepare(
        filter_directory=cache / "seccomp", profiles=[defaults.default_seccomp(defaults.DEFAULT_CAPABILITIES)]
    )


class RuntimeLauncher:
    """`bulkhead.runtime.launch` by proxy."""

    def __init__(self) -> None:
        self._midwife: _Child | None = None
        self._leaving: list[int] = []

    def prepare(self, unwanted: int) -> None:
        """Fork the child that will create the container, before anybody waits for it. It closes `unwanted`."""
        self._midwife = _Child.waiting(unwanted)

    def create(self, *, container_id: str, data_dir: str, terminal: bool, rootfs: Rootfs | None, stdio: Stdio) -> Task:
        wish = {
            "container_id": container_id,
            "data_dir": data_dir,
            "terminal": terminal,
            "rootfs": None if rootfs is None else [rootfs.lower, rootfs.upper, rootfs.work, rootfs.volatile],
            "stdio": [stdio.stdin >= 0, stdio.stdout >= 0, stdio.stderr >= 0],
        }
        given = [fd for fd in (stdio.stdin, stdio.stdout, stdio.stderr) if fd >= 0]
        midwife, self._midwife = self._midwife, None
        if midwife is None or not midwife.ask(wish, given):
            midwife = _Child.working(lambda: _create(wish, given))
        told, (pidfd, sync, console) = self._outcome(midwife, 2)
        return launch.Task(
            container_id=container_id,
            pid=told["pid"],
            pidfd=pidfd,
            start_time=told["start_time"],
            cgroup=Cgroup(told["cgroup"]),
            console=console,
            warnings=tuple(told["warnings"]),
            _launch=nsexec.Launch(told["pid"], pidfd, sync),
        )

    def adopt(self, *, container_id: str, pid: int, start_time: int, cgroup: str) -> Task:
        midwife, self._midwife = self._midwife, None
        if midwife is not None:
            # There will be no create.
            midwife.dismiss()
        config = {"linux": {"cgroupsPath": cgroup}}
        return launch.adopt(container_id=container_id, pid=pid, start_time=start_time, config=config)

    def exec(self, *, task: Task, data_dir: str, process: Mapping[str, Any], stdio: Stdio) -> Process:
        def run() -> Answer:
            running = launch.exec_(
                task=cast(launch.Task, task), config=bundle.read(data_dir), process=process, stdio=_fds(stdio)
            )
            return _described(running), _descriptors(running.pidfd, running.console), running

        told, (pidfd, console) = self._outcome(_Child.working(run), 1)
        return launch.ExecProcess(pid=told["pid"], pidfd=pidfd, console=console, warnings=tuple(told["warnings"]))

    def reap(self, pidfd: int) -> int | None:
        # What a child of ours has made is ours when that child is gone; it left when it had answered.
        leaving, self._leaving = self._leaving, []
        for pid in leaving:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        try:
            status = launch.reap(pidfd)
        except NotFound as error:
            raise ChildProcessError(str(error)) from error
        return None if status is None else status.code

    def remove_cgroup(self, path: str) -> None:
        Cgroup(path).remove()

    def _outcome(self, child: _Child, least: int) -> tuple[dict[str, Any], list[Any]]:
        """What the child tells, and `least` descriptors and a console, which may be None."""
        self._leaving.append(child.pid)
        told, descriptors = child.outcome()
        if not least <= len(descriptors) <= least + 1:
            raise Internal("cannot launch the process: descriptors are missing")
        return told, [*descriptors, None][: least + 1]


class _Child:
    """A fork of the shim that makes one process and leaves."""

    def __init__(self, pid: int, link: socket.socket) -> None:
        self.pid = pid
        self._link = link

    @classmethod
    def working(cls, work: Callable[[], Answer]) -> _Child:
        """One that is at it already."""
        child, link = cls._fork()
        if child is None:
            _work_and_leave(work, link)
        return cls(child or 0, link)

    @classmethod
    def waiting(cls, unwanted: int) -> _Child:
        """One that waits for `ask`. It ends with this process."""
        child, link = cls._fork()
        if child is None:
            os.close(unwanted)
            process.set_title("bulkhead-shim: launcher")
            message, descriptors = fdpass.receive(link, _MESSAGE_LIMIT, 3)
            if not message:
                os._exit(0)
            _work_and_leave(lambda: _create(json.loads(message), descriptors), link)
        return cls(child or 0, link)

    @staticmethod
    def _fork() -> tuple[int | None, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        child = os.fork()
        if child == 0:
            ours.close()
            return None, theirs
        theirs.close()
        return child, ours

    def ask(self, wish: dict[str, Any], descriptors: Sequence[int]) -> bool:
        """Give a waiting child its work; False when it is dead."""
        try:
            fdpass.send(self._link, json.dumps(wish).encode(), descriptors)
        except OSError:
            self._link.close()
            return False
        return True

    def dismiss(self) -> None:
        """Let a waiting child go."""
        self._link.close()

    def outcome(self) -> tuple[dict[str, Any], list[int]]:
        """Wait for what the work came to. Raises what it raised; Internal if the child died."""
        try:
            with self._link:
                message, descriptors = fdpass.receive(self._link, _MESSAGE_LIMIT, 3)
        except OSError as error:
            raise Internal(f"cannot launch the process: {error}") from error
        if not message:
            raise Internal("cannot launch the process: the launching process died")
        told = json.loads(message)
        if "error" in told:
            raise _error(told)
        return told, descriptors


def _create(wish: dict[str, Any], given: Sequence[int]) -> Answer:
    """In the child: the whole of a create."""
    config = bundle.read(wish["data_dir"])
    if bundle.has_terminal(config) is not wish["terminal"]:
        raise InvalidArgument(f"cannot read {wish['data_dir']}/config.json: it names a terminal twice")
    rootfs = None
    if wish["rootfs"] is not None:
        lower, upper, work, volatile = wish["rootfs"]
        rootfs = OverlayRootfs(lower=tuple(lower), upper=upper, work=work, volatile=volatile)
    fds = iter(given)
    stdin, stdout, stderr = (next(fds) if is_given else -1 for is_given in wish["stdio"])
    task = launch.create(
        container_id=wish["container_id"],
        config=config,
        rootfs=rootfs,
        stdio=StdioFds(stdin=stdin, stdout=stdout, stderr=stderr),
    )
    assert task.sync_fd is not None
    answer = {"start_time": task.start_time, "cgroup": task.cgroup.path}
    return _described(task) | answer, _descriptors(task.pidfd, task.sync_fd, task.console), task


def _work_and_leave(work: Callable[[], Answer], link: socket.socket) -> None:
    try:
        try:
            told, descriptors, owner = work()
        except BulkheadError as error:
            told, descriptors, owner = _failure(error), (), None
        except Exception as error:
            told, descriptors, owner = _failure(Internal(f"{type(error).__name__}: {error}")), (), None
        fdpass.send(link, json.dumps(told).encode(), descriptors)
        del owner
    finally:
        os._exit(0)


def _failure(error: BulkheadError) -> dict[str, Any]:
    told: dict[str, Any] = {"kind": type(error).__name__, "error": str(error)[:_TEXT_LIMIT]}
    if isinstance(error, LaunchFailed):
        told |= {"step": error.step, "errno": error.errno, "exit_code": error.exit_code}
    return told


def _error(told: dict[str, Any]) -> BulkheadError:
    if told["kind"] == "LaunchFailed":
        return LaunchFailed(told["error"], step=told["step"], errno=told["errno"], exit_code=told["exit_code"])
    return error_named(told["kind"], told["error"])


def _described(made: launch.Task | launch.ExecProcess) -> dict[str, Any]:
    return {"pid": made.pid, "warnings": [text[:_TEXT_LIMIT] for text in made.warnings[:2]]}


def _descriptors(*found: int | None) -> list[int]:
    return [fd for fd in found if fd is not None]


def _fds(stdio: Stdio) -> StdioFds:
    return StdioFds(stdin=stdio.stdin, stdout=stdio.stdout, stderr=stdio.stderr)
