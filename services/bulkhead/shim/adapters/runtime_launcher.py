"""The launcher port on the engine's own runtime core, each launch in a short-lived fork of the shim.

The runtime touches two megabytes while it makes a container out of a config. A child that does it takes
them along when it ends; its descriptors come over by SCM_RIGHTS, and the container's process by the
kernel: the shim is the subreaper, so it becomes the parent, and reaps by pidfd as if it had forked it.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from bulkhead import nsexec
from bulkhead.errors import BulkheadError, Internal, InvalidArgument, LaunchFailed, NotFound
from bulkhead.linux import fdpass
from bulkhead.linux.cgroups import Cgroup, hierarchies
from bulkhead.runtime import defaults, filters, launch
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
    nsexec.prepare()
    hierarchies()
    filters.use_directory(cache / "seccomp")
    filters.filter_for(defaults.default_seccomp(defaults.DEFAULT_CAPABILITIES))


class RuntimeLauncher:
    """`bulkhead.runtime.launch` by proxy."""

    def create(self, *, container_id: str, data_dir: str, terminal: bool, rootfs: Rootfs | None, stdio: Stdio) -> Task:
        def create() -> Answer:
            config = bundle.read(data_dir)
            if bundle.has_terminal(config) is not terminal:
                raise InvalidArgument(f"cannot read {data_dir}/config.json: it names a terminal twice")
            task = launch.create(container_id=container_id, config=config, rootfs=_overlay(rootfs), stdio=_fds(stdio))
            assert task.sync_fd is not None
            answer = {"start_time": task.start_time, "cgroup": task.cgroup.path}
            return _described(task) | answer, _descriptors(task.pidfd, task.sync_fd, task.console), task

        told, descriptors = _in_child(create)
        pidfd, sync, console = (*descriptors, None)[:3]
        assert pidfd is not None and sync is not None
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
        config = {"linux": {"cgroupsPath": cgroup}}
        return launch.adopt(container_id=container_id, pid=pid, start_time=start_time, config=config)

    def exec(self, *, task: Task, data_dir: str, process: Mapping[str, Any], stdio: Stdio) -> Process:
        def run() -> Answer:
            running = launch.exec_(
                task=cast(launch.Task, task), config=bundle.read(data_dir), process=process, stdio=_fds(stdio)
            )
            return _described(running), _descriptors(running.pidfd, running.console), running

        told, descriptors = _in_child(run)
        pidfd, console = (*descriptors, None)[:2]
        assert pidfd is not None
        return launch.ExecProcess(pid=told["pid"], pidfd=pidfd, console=console, warnings=tuple(told["warnings"]))

    def reap(self, pidfd: int) -> int | None:
        try:
            status = launch.reap(pidfd)
        except NotFound as error:
            raise ChildProcessError(str(error)) from error
        return None if status is None else status.code

    def remove_cgroup(self, path: str) -> None:
        Cgroup(path).remove()


def _in_child(work: Callable[[], Answer]) -> tuple[dict[str, Any], list[int]]:
    """What `work` answers, done by a fork of this process. Raises what `work` raises; Internal if it dies."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        _work_and_leave(work, theirs)
    theirs.close()
    try:
        with ours:
            message, descriptors = fdpass.receive(ours, _MESSAGE_LIMIT, 3)
    except OSError as error:
        raise Internal(f"cannot launch the process: {error}") from error
    finally:
        # Only when it is gone are the processes that it made our children.
        os.waitpid(child, 0)
    if not message:
        raise Internal("cannot launch the process: the launching process died")
    told = json.loads(message)
    if "error" in told:
        raise _error(told)
    return told, descriptors


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


def _described(process: launch.Task | launch.ExecProcess) -> dict[str, Any]:
    return {"pid": process.pid, "warnings": [text[:_TEXT_LIMIT] for text in process.warnings[:2]]}


def _descriptors(*found: int | None) -> list[int]:
    return [fd for fd in found if fd is not None]


def _overlay(rootfs: Rootfs | None) -> OverlayRootfs | None:
    if rootfs is None:
        return None
    return OverlayRootfs(lower=rootfs.lower, upper=rootfs.upper, work=rootfs.work, volatile=rootfs.volatile)


def _fds(stdio: Stdio) -> StdioFds:
    return StdioFds(stdin=stdio.stdin, stdout=stdio.stdout, stderr=stdio.stderr)
