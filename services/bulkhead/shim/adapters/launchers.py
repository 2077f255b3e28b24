"""The launcher port, choosing: the engine's own core, or the runtime that a container was given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from bulkhead.errors import InvalidArgument
from bulkhead.shim.adapters.runtime_launcher import RuntimeLauncher
from bulkhead.shim.identity import Expected
from bulkhead.shim.ports import Cgroup, Further, Ready, Rootfs, Stdio, Task

if TYPE_CHECKING:
    from bulkhead.shim.adapters.command_launcher import CommandLauncher


class Launchers:
    """`bulkhead.shim.ports.Launcher`. Shims on the engine's own core never load the other one."""

    def __init__(self, own: RuntimeLauncher | None = None) -> None:
        """`own` stands in for the engine's own core."""
        self._own = own or RuntimeLauncher()

    def expect(self, expected: Expected) -> None:
        self._own.expect(expected)

    def dismiss(self) -> None:
        self._own.dismiss()

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
        if not runtime:
            return self._own.create(
                container_id=container_id,
                data_dir=data_dir,
                terminal=terminal,
                rootfs=rootfs,
                stdio=stdio,
                planned=planned,
                network=network,
                begun=begun,
                go=go,
            )
        self._own.dismiss()
        if network is not None:
            raise InvalidArgument(f"cannot create the container: {runtime[0]} makes its network namespace itself")
        return _others().create(
            container_id=container_id,
            data_dir=data_dir,
            terminal=terminal,
            rootfs=rootfs,
            stdio=stdio,
            runtime=runtime,
        )

    def adopt(
        self, *, container_id: str, data_dir: str, pid: int, start_time: int, cgroup: str, runtime: Sequence[str] = ()
    ) -> Task:
        if not runtime:
            return self._own.adopt(container_id=container_id, pid=pid, start_time=start_time, cgroup=cgroup)
        return _others().adopt(
            container_id=container_id,
            data_dir=data_dir,
            pid=pid,
            start_time=start_time,
            cgroup=cgroup,
            runtime=runtime,
        )

    def ready(self, *, task: Task, planned: bytes, stdio: Stdio) -> Ready | None:
        return self._own.ready(task=task, planned=planned, stdio=stdio) if RuntimeLauncher.made(task) else None

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
        if RuntimeLauncher.made(task):
            return self._own.exec(
                task=task,
                data_dir=data_dir,
                process=process,
                stdio=stdio,
                planned=planned,
                ready=ready,
                begun=begun,
                settled=settled,
            )
        if begun is not None:
            begun()
        return _others().exec(task=cast(Any, task), data_dir=data_dir, process=process, stdio=stdio)

    def reap(self, pidfd: int) -> int | None:
        return self._own.reap(pidfd)

    def group(self, cgroup: str) -> Cgroup:
        return self._own.group(cgroup)

    def release(self, *, container_id: str, data_dir: str, cgroup: str, runtime: Sequence[str] = ()) -> None:
        if runtime:
            _others().release(container_id=container_id, data_dir=data_dir, cgroup=cgroup, runtime=runtime)
        else:
            self._own.release(cgroup)


def _others() -> CommandLauncher:
    from bulkhead.shim.adapters.command_launcher import CommandLauncher

    return CommandLauncher()
