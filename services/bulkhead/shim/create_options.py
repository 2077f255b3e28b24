"""What a create is told beyond the bundle, and what of that a record keeps for the shim that comes after."""

from __future__ import annotations

from dataclasses import dataclass

from bulkhead.linux import process
from bulkhead.shim.exits import TaskRecord
from bulkhead.shim.ports import Rootfs, Task
from bulkhead.shim.sinks import LogTarget

# In a record, any log driver that keeps bytes as they are.
_VERBATIM = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateOptions:
    """What a create is told beyond the bundle. Without `log` there is no file; `destination`: see `shim.shipping`;
    `network`: see `Launcher`."""

    rootfs: Rootfs | None = None
    log: LogTarget | None = None
    destination: bytes = b""
    log_buffer: int = 0
    open_stdin: bool = False
    stdin_once: bool = False
    height: int = 0
    width: int = 0
    runtime: tuple[str, ...] = ()
    planned: bytes = b""
    network: tuple[str, int] | None = None


def log_options(record: TaskRecord) -> CreateOptions:
    """How the earlier shim was told to log."""
    target = None
    if record.log_driver != "none":
        target = LogTarget(
            path=record.log_path,
            max_size=record.log_max_size,
            max_file=record.log_max_file,
            compress=record.log_compress,
            attributes=record.log_attributes.encode(),
            non_blocking=record.log_non_blocking,
            max_buffer=record.log_max_buffer,
            verbatim=record.log_driver == _VERBATIM,
        )
    return CreateOptions(log=target, destination=record.log_destination.encode(), log_buffer=record.log_max_buffer)


def record_of(task: Task, options: CreateOptions, pipes: tuple[int, ...], *, terminal: bool) -> TaskRecord:
    """What is kept of a create, and of the process that came of it."""
    log = options.log
    return TaskRecord(
        pid=task.pid,
        start_time=task.start_time,
        boot_id=process.boot_id(),
        cgroup=task.cgroup.path,
        own_pids=process.is_namespace_init(task.pid),
        log_driver=(_VERBATIM if log.verbatim else "json-file") if log else "none",
        log_path=log.path if log else "",
        log_max_size=log.max_size if log else 0,
        log_max_file=log.max_file if log else 1,
        log_compress=log.compress if log else False,
        log_attributes=log.attributes.decode() if log else "",
        log_non_blocking=log.non_blocking if log else False,
        log_max_buffer=options.log_buffer,
        log_destination=options.destination.decode(),
        terminal=terminal,
        open_stdin=options.open_stdin,
        stdin_once=options.stdin_once,
        runtime=options.runtime,
        pipes=pipes,
    )
