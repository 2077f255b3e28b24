"""The launcher port on the engine's own runtime core.

What the manager has worked out (`runtime.planned`) is launched here. Anything else is launched in a short-lived fork
of the shim: the runtime touches two megabytes while it makes a container out of a config, and a child that does it
takes them along when it ends. Its descriptors come over by SCM_RIGHTS, and the container's process by the kernel: the
shim is the subreaper, so it becomes the parent, and reaps by pidfd as if it had forked it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from bulkhead import nsexec
from bulkhead.errors import BulkheadError, Internal, InvalidArgument, NotFound
from bulkhead.linux import namespaces
from bulkhead.linux.cgroup_ahead import GroupAhead
from bulkhead.linux.cgroups import Cgroup
from bulkhead.runtime import defaults, launch
from bulkhead.runtime.planned import unpack
from bulkhead.runtime.rootfs import OverlayRootfs, StdioFds
from bulkhead.shim import bundle
from bulkhead.shim.adapters.forked import Answer, Child, Interrupted, told_warnings
from bulkhead.shim.identity import Expected
from bulkhead.shim.ports import Further, Ready, Rootfs, Stdio, Task

# Settings of the host's that a new network namespace takes over may be changed at any time.
_NETWORK_SECONDS = 2.0


def preload(cache: Path) -> None:
    """Make what every launch needs: the sealed stage, the table of cgroup mounts, Docker's seccomp filter."""
    launch.prepare(
        filter_directory=cache / "seccomp", profiles=[defaults.default_seccomp(defaults.DEFAULT_CAPABILITIES)]
    )


class RuntimeLauncher:
    """`bulkhead.runtime.launch` by proxy; `Launchers` makes it the whole port."""

    def __init__(self, group: Callable[[str], GroupAhead] = GroupAhead) -> None:
        self._group = group
        # Made ahead, or none.
        self._cgroup: GroupAhead | None = None
        self._leaving: list[int] = []
        # A network namespace of nobody, or -1, and since when.
        self._network, self._network_since = -1, 0.0

    def expect(self, expected: Expected) -> None:
        """The kernel takes longer for a network namespace, and for cgroups, than for all else that a process is born
        with."""
        if not expected.network_given:
            with contextlib.suppress(OSError):
                self._network, self._network_since = nsexec.new_network(), time.monotonic()
        if expected.cgroup:
            with contextlib.suppress(OSError, ValueError):
                group = self._group(expected.cgroup)
                group.make()
                self._cgroup = group

    def dismiss(self) -> None:
        self._close_network()
        self._remove_cgroup()

    def _close_network(self) -> None:
        if self._network >= 0:
            os.close(self._network)
            self._network = -1

    def _remove_cgroup(self) -> None:
        group, self._cgroup = self._cgroup, None
        if group is not None:
            group.remove()

    def _expected(self, path: str) -> Cgroup:
        """The cgroup of this path, which may have been made ahead."""
        if self._cgroup is not None and self._cgroup.path == path:
            group, self._cgroup = self._cgroup, None
            return group
        return self._group(path)

    def _ahead(self) -> launch.Network:
        """That namespace, or none: it has the host's settings of the time when it was made."""
        if time.monotonic() - self._network_since > _NETWORK_SECONDS:
            self._close_network()
        return launch.Network(self._network)

    def _given(self, path: str, inode: int) -> launch.Network:
        """Somebody's, who has plugged in what the container gets. Raises Internal when it is not there."""
        self._close_network()
        try:
            self._network = namespaces.open_namespace(path, namespaces.NEWNET)
            found = os.fstat(self._network).st_ino
        except OSError as error:
            raise Internal(f"cannot take network namespace {path}: {error.strerror}") from error
        if found != inode:
            raise Internal(f"cannot take network namespace {path}: it is another one by now")
        return launch.Network(self._network, settled=True)

    def create(
        self,
        *,
        container_id: str,
        data_dir: str,
        terminal: bool,
        rootfs: Rootfs | None,
        stdio: Stdio,
        planned: bytes = b"",
        network: tuple[str, int] | None = None,
        begun: Callable[[Task], None],
        go: Callable[[Task, int], None] | None = None,
    ) -> Task:
        try:
            ahead = self._ahead() if network is None else self._given(*network)
            known = unpack(planned)
            if known is None:
                # The child makes its own, before this one would be let go of.
                self._remove_cgroup()
                return self._create_forked(container_id, data_dir, terminal, rootfs, stdio, ahead)
            _check_terminal(known.terminal, terminal, data_dir)
            return launch.create_planned(
                container_id=container_id,
                planned=known,
                rootfs=None if rootfs is None else _overlay(rootfs.lower, rootfs.upper, rootfs.work, rootfs.volatile),
                stdio=_fds(stdio),
                group=self._expected,
                network=ahead,
                begun=begun,
                go=go,
            )
        finally:
            with contextlib.suppress(OSError):
                self.dismiss()

    def _create_forked(
        self,
        container_id: str,
        data_dir: str,
        terminal: bool,
        rootfs: Rootfs | None,
        stdio: Stdio,
        network: launch.Network,
    ) -> Task:
        wish = {
            "container_id": container_id,
            "data_dir": data_dir,
            "terminal": terminal,
            "rootfs": None if rootfs is None else [rootfs.lower, rootfs.upper, rootfs.work, rootfs.volatile],
            "stdio": [stdio.stdin >= 0, stdio.stdout >= 0, stdio.stderr >= 0],
        }
        given = [fd for fd in (stdio.stdin, stdio.stdout, stdio.stderr) if fd >= 0]
        try:
            told, (pidfd, sync, console) = self._outcome(Child.working(lambda: _create(wish, given, network)), 2)
        except Interrupted:
            # Its parked process, if it had one, ends with it; the cgroup would stay.
            _clear(container_id, data_dir)
            raise
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

    @staticmethod
    def made(task: Task) -> bool:
        """Whether a task is of this launcher's making."""
        return isinstance(task, launch.Task)

    def adopt(self, *, container_id: str, pid: int, start_time: int, cgroup: str) -> Task:
        config = {"linux": {"cgroupsPath": cgroup}}
        return launch.adopt(container_id=container_id, pid=pid, start_time=start_time, config=config)

    def ready(self, *, task: Task, planned: bytes, stdio: Stdio) -> launch.ReadyExec | None:
        known = unpack(planned)
        if known is None:
            return None
        return launch.ReadyExec(task=cast(launch.Task, task), planned=known, stdio=_fds(stdio))

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
        made = cast("launch.ReadyExec | None", ready)
        known = unpack(planned) if made is None else made.planned
        if known is not None:
            return launch.exec_planned(
                task=cast(launch.Task, task), planned=known, stdio=_fds(stdio), ready=made, begun=begun, settled=settled
            )
        if begun is not None:
            begun()

        def run() -> Answer:
            running = launch.exec_(
                task=cast(launch.Task, task), config=bundle.read(data_dir), process=process, stdio=_fds(stdio)
            )
            return _described(running), _descriptors(running.pidfd, running.console), running

        told, (pidfd, console) = self._outcome(Child.working(run), 1)
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

    def group(self, cgroup: str) -> Cgroup:
        """The cgroup of a container that has ended. Raises OSError."""
        return Cgroup(cgroup)

    def release(self, cgroup: str) -> None:
        """Remove what a container that has ended has left. Raises OSError."""
        Cgroup(cgroup).remove()

    def _outcome(self, child: Child, least: int) -> tuple[dict[str, Any], list[Any]]:
        """What the child tells, and `least` descriptors and a console, which may be None."""
        self._leaving.append(child.pid)
        told, descriptors = child.outcome()
        if not least <= len(descriptors) <= least + 1:
            raise Internal("cannot launch the process: descriptors are missing")
        return told, [*descriptors, None][: least + 1]


def _create(wish: dict[str, Any], given: Sequence[int], network: launch.Network) -> Answer:
    """In the child: the whole of a create."""
    config = bundle.read(wish["data_dir"])
    _check_terminal(bundle.has_terminal(config), wish["terminal"], wish["data_dir"])
    rootfs = None if wish["rootfs"] is None else _overlay(*wish["rootfs"])
    fds = iter(given)
    stdin, stdout, stderr = (next(fds) if is_given else -1 for is_given in wish["stdio"])
    task = launch.create(
        container_id=wish["container_id"],
        config=config,
        rootfs=rootfs,
        stdio=StdioFds(stdin=stdin, stdout=stdout, stderr=stderr),
        network=network,
    )
    assert task.sync_fd is not None
    answer = {"start_time": task.start_time, "cgroup": task.cgroup.path}
    return _described(task) | answer, _descriptors(task.pidfd, task.sync_fd, task.console), task


def _clear(container_id: str, data_dir: str) -> None:
    with contextlib.suppress(OSError, ValueError, BulkheadError):
        group = launch.cgroup_of(container_id, bundle.read(data_dir))
        group.kill_all()
        group.remove()


def _check_terminal(found: bool, expected: bool, data_dir: str) -> None:
    if found is not expected:
        raise InvalidArgument(f"cannot read {data_dir}/config.json: it names a terminal twice")


def _overlay(lower: Sequence[str], upper: str, work: str, volatile: bool) -> OverlayRootfs:
    return OverlayRootfs(lower=tuple(lower), upper=upper, work=work, volatile=volatile)


def _described(made: launch.Task | launch.ExecProcess) -> dict[str, Any]:
    return {"pid": made.pid, "warnings": told_warnings(made.warnings)}


def _descriptors(*found: int | None) -> list[int]:
    return [fd for fd in found if fd is not None]


def _fds(stdio: Stdio) -> StdioFds:
    return StdioFds(stdin=stdio.stdin, stdout=stdio.stdout, stderr=stdio.stderr)
