"""The launcher port on the engine's own runtime core, in process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from bulkhead import nsexec
from bulkhead.errors import NotFound
from bulkhead.linux.cgroups import Cgroup, hierarchies
from bulkhead.runtime import defaults, filters, launch
from bulkhead.runtime.rootfs import OverlayRootfs, StdioFds
from bulkhead.shim.ports import Process, Rootfs, Stdio, Task


def preload(cache: Path) -> None:
    """Make what every launch needs: the sealed stage, the table of cgroup mounts, Docker's seccomp filter."""
    nsexec.prepare()
    hierarchies()
    filters.use_directory(cache / "seccomp")
    filters.filter_for(defaults.default_seccomp(defaults.DEFAULT_CAPABILITIES))


class RuntimeLauncher:
    """`bulkhead.runtime.launch`, in the port's types."""

    def create(self, *, container_id: str, config: Mapping[str, Any], rootfs: Rootfs | None, stdio: Stdio) -> Task:
        overlay = (
            None
            if rootfs is None
            else OverlayRootfs(lower=rootfs.lower, upper=rootfs.upper, work=rootfs.work, volatile=rootfs.volatile)
        )
        return launch.create(container_id=container_id, config=config, rootfs=overlay, stdio=_fds(stdio))

    def adopt(self, *, container_id: str, pid: int, start_time: int, config: Mapping[str, Any]) -> Task:
        return launch.adopt(container_id=container_id, pid=pid, start_time=start_time, config=config)

    def exec(self, *, task: Task, config: Mapping[str, Any], process: Mapping[str, Any], stdio: Stdio) -> Process:
        return launch.exec_(task=cast(launch.Task, task), config=config, process=process, stdio=_fds(stdio))

    def reap(self, pidfd: int) -> int | None:
        try:
            status = launch.reap(pidfd)
        except NotFound as error:
            raise ChildProcessError(str(error)) from error
        return None if status is None else status.code

    def remove_cgroup(self, *, config: Mapping[str, Any]) -> None:
        path = (config.get("linux") or {}).get("cgroupsPath")
        if path:
            Cgroup(path).remove()


def _fds(stdio: Stdio) -> StdioFds:
    return StdioFds(stdin=stdio.stdin, stdout=stdio.stdout, stderr=stdio.stderr)
