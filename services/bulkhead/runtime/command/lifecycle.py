"""create, start, run, kill, delete, pause, resume.

Each is told whole or not at all: the id is reserved before anything is made, the record says which cgroup
would be left before it exists, and `delete --force` clears whatever any of them left when it was killed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bulkhead.errors import BulkheadError, Conflict, Internal, InvalidArgument, LaunchFailed, NotFound
from bulkhead.linux import pidfd
from bulkhead.linux.cgroups import Cgroup
from bulkhead.runtime import filters, hooks, launch
from bulkhead.runtime.command import bundles, handles, notify, terminals
from bulkhead.runtime.command.arguments import Arguments
from bulkhead.runtime.command.context import Context
from bulkhead.runtime.state import Container, Record, Status, filter_cache

_KILL_SECONDS = 10.0


# ---- create, start, run ----


def create(context: Context, arguments: Arguments) -> int:
    pid_file = handles.absolute(arguments.text("pid-file"))
    container = context.container(arguments.positional[0])
    new = _New(context, container, arguments)
    terminals.check(terminal=new.terminal, detached=True, console_socket=arguments.text("console-socket"))
    container.reserve()
    with container.locked(), new.forgotten_on_failure():
        _make_fifo(container, new.config)
        task = new.create(exec_fifo=container.fifo)
        with _killed_on_failure(task, new.record):
            container.save(new.record.launched(task.pid, task.start_time, task.cgroup.paths))
            new.hand_over_console(task)
            handles.write_pid(pid_file, task.pid)
    return 0


def run(context: Context, arguments: Arguments) -> int:
    """Create and start at once; in the foreground the exit status is the process's."""
    pid_file = handles.absolute(arguments.text("pid-file"))
    container = context.container(arguments.positional[0])
    new = _New(context, container, arguments)
    detached = arguments.switch("detach")
    terminals.check(terminal=new.terminal, detached=detached, console_socket=arguments.text("console-socket"))
    if not detached and not arguments.switch("no-subreaper") and not _has_own_pids(new.config):
        from bulkhead.linux import process  # what a container without an own init leaves is ours to reap

        process.become_subreaper()
    if detached:
        _launch(container, new, pid_file, detached=True)
        return 0
    from bulkhead.runtime.command import foreground

    with foreground.signals() as wakeup:
        task = _launch(container, new, pid_file, detached=False)
        code = foreground.attend(task.pidfd, task.console, wakeup)
    if not arguments.switch("keep"):
        with container.locked():
            _destroy(context, container, container.load())
    return code


def _launch(container: Container, new: _New, pid_file: str, *, detached: bool) -> launch.Task:
    """Created and started, its id taken and its state on record."""
    container.reserve()
    with container.locked(), new.forgotten_on_failure():
        task = new.create()
        with _killed_on_failure(task, new.record):
            container.save(new.record.launched(task.pid, task.start_time, task.cgroup.paths))
            if detached:
                new.hand_over_console(task)
            listener = notify.listen(container.directory)
            task.start()
            new.say("init: closing the pipe to signal completion")
            handles.write_pid(pid_file, task.pid)
    if listener is not None and detached:
        listener.pass_on(task.pidfd, task.pid)
    elif listener is not None:
        listener.pass_on_meanwhile(task.pidfd)
    return task


def start(context: Context, arguments: Arguments) -> int:
    container = context.container(arguments.positional[0])
    with container.locked():
        record = container.load()
        status = container.status(record)
        if status is Status.STOPPED:
            raise Conflict("cannot start a container that has stopped")
        if status is not Status.CREATED:
            raise Conflict("cannot start an already running container")
        listener = notify.listen(container.directory)
        process = record.open_process() if listener is not None else None
        _let_go(container, record)
    _after_start(container, record)
    if listener is not None and process is not None:
        listener.pass_on(process, record.pid)
    return 0


class _New:
    """A container in the making: what the bundle and the options say, and the way to create it."""

    def __init__(self, context: Context, container: Container, arguments: Arguments) -> None:
        self._context = context
        self._container = container
        self._arguments = arguments
        self._bundle = bundles.enter(arguments.text("bundle"))
        self._content, self.config = bundles.read_config()
        process = bundles.part(self.config, "process")
        self.terminal = process.get("terminal") is True
        self._preserved = handles.preserved(arguments.number("preserve-fds"))
        if environment := handles.listen_environment():
            process["env"] = [*(process.get("env") or ()), *environment]
        self.record = self._described()

    def _described(self) -> Record:
        root = bundles.part(self.config, "root").get("path")
        group = _planned_group(self._container.id, self.config, self._context.systemd)
        return Record(
            id=self._container.id,
            oci_version=str(self.config.get("ociVersion") or ""),
            bundle=self._bundle,
            rootfs=os.path.join(self._bundle, root) if isinstance(root, str) else "",  # noqa: PTH118
            created=_now(),
            cgroup=group.paths if group else {},
            shared=bool(group and not self._context.systemd and group.pids()),
            owner=os.geteuid(),
            systemd=self._context.systemd,
            annotations=bundles.part(self.config, "annotations"),
        )

    def say(self, text: str) -> None:
        self._context.log.debug(text)

    def create(self, *, exec_fifo: str | None = None) -> launch.Task:
        self._container.save_config(self._content)
        self._container.save(self.record)
        notify.offer(self.config, self._container.directory)
        if bundles.part(self.config, "linux").get("seccomp"):
            filters.use_directory(Path(filter_cache(self._context.root)))
        config, warnings = bundles.tolerated(bundles.with_default_devices(self.config))
        task = launch.create(
            container_id=self._container.id,
            config=config,
            stdio=handles.stdio(),
            systemd=self._context.systemd,
            bundle=self._bundle,
            exec_fifo=exec_fifo,
            preserve_fds=self._preserved,
            no_pivot=self._arguments.switch("no-pivot"),
            new_keyring=not self._arguments.switch("no-new-keyring"),
            manner=self._manner(),
        )
        for warning in (*warnings, *task.warnings):
            self._context.log.warning(warning)
        return task

    def _manner(self) -> launch.Manner:
        log = self._context.log
        if self.record.shared:
            log.warning("container's cgroup is not empty: others have been there before", aloud=True)
        return launch.Manner(shares_cgroup=self.record.shared, rootless=self._context.rootless, trace=log.tracer())

    def hand_over_console(self, task: launch.Task) -> None:
        if task.console is not None:
            master, task.console = task.console, None
            terminals.hand_over(self._arguments.text("console-socket"), master)

    @contextlib.contextmanager
    def forgotten_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._container.forget()
            raise


@contextlib.contextmanager
def _killed_on_failure(task: launch.Task, record: Record) -> Iterator[None]:
    """A container that its caller will not hear of does not stay."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(task.pidfd, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            pidfd.wait(task.pidfd)
        with contextlib.suppress(OSError):
            if not record.shared:
                task.cgroup.kill_all()
            task.cgroup.remove()
        raise


def _planned_group(container_id: str, config: dict[str, Any], systemd: bool) -> Cgroup | None:
    """Where the cgroup will be; the launch itself says what is wrong with a path that is none."""
    try:
        return launch.cgroup_of(container_id, config, systemd=systemd)
    except (ValueError, TypeError, AttributeError):
        return None


def _make_fifo(container: Container, config: dict[str, Any]) -> None:
    """Where the process waits for `start`; it opens it as the container's root."""
    os.mkfifo(container.fifo, 0o622)
    os.chmod(container.fifo, 0o622)  # noqa: PTH101 (whatever our umask says)
    uid, gid = _root_ids(config)
    if (uid, gid) != (0, 0) and os.geteuid() == 0:
        os.chown(container.fifo, uid, gid)


def _root_ids(config: dict[str, Any]) -> tuple[int, int]:
    """The container's root as the host knows it."""
    linux = bundles.part(config, "linux")
    return _host_id(linux.get("uidMappings")), _host_id(linux.get("gidMappings"))


def _host_id(entries: Any) -> int:
    for entry in entries or ():
        if entry.get("containerID", 0) == 0:
            return int(entry.get("hostID", 0))
    return 0


def _let_go(container: Container, record: Record) -> None:
    """Take the byte that the process waits to write."""
    process_fd = record.open_process()
    if process_fd is None:
        raise Conflict("cannot start a container that has stopped")
    # From here on the process may go ahead, and may be at its end before we have looked.
    fifo = os.open(container.fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not _has_written(fifo, process_fd):
            raise Conflict("cannot start a container that has stopped")
        os.read(fifo, 1)
        os.unlink(container.fifo)  # noqa: PTH108
    finally:
        os.close(fifo)
        os.close(process_fd)


def _has_written(fifo: int, process_fd: int) -> bool:
    poller = select.poll()
    poller.register(fifo, select.POLLIN)
    poller.register(process_fd, select.POLLIN)
    return any(fd == fifo and event & select.POLLIN for fd, event in poller.poll())


def _after_start(container: Container, record: Record) -> None:
    config = container.load_config()
    if not hooks.wanted(config, "poststart"):
        return
    try:
        hooks.run(config, "poststart", _told(record, config, Status.RUNNING))
    except LaunchFailed:
        with contextlib.suppress(Conflict):
            _end(container, record)
        raise


def _told(record: Record, config: dict[str, Any], status: Status) -> dict[str, Any]:
    return hooks.state(config, container_id=record.id, bundle=record.bundle, status=status.value, pid=record.pid)


def _now() -> str:
    seconds = time.time_ns()
    whole, rest = divmod(seconds, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{rest:09d}Z"


# ---- kill, pause, resume ----


def kill(context: Context, arguments: Arguments) -> int:
    container = context.container(arguments.positional[0])
    number = parse_signal((arguments.positional[1:] or ["SIGTERM"])[0])
    record = container.load()
    fd = record.open_process()
    try:
        if arguments.switch("all"):
            _signal_all(record, number)
        elif fd is None:
            raise Conflict("container not running")
        else:
            _signal(container, record, fd, number)
    finally:
        if fd is not None:
            os.close(fd)
    return 0


def _signal(container: Container, record: Record, fd: int, number: int) -> None:
    if number == signal.SIGKILL and not _has_own_pids(container.load_config()):
        # No namespace ends with this process: the others would stay.
        record.group().kill_all()
        return
    if not pidfd.send_signal(fd, number):
        raise Conflict("container not running")
    if number == signal.SIGKILL:
        # What is frozen does not even die.
        with contextlib.suppress(OSError):
            if record.group().is_frozen():
                record.group().thaw()


def _signal_all(record: Record, number: int) -> None:
    if number == signal.SIGKILL:
        record.group().kill_all()
        return
    for pid in filter(None, record.group().pids()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _has_own_pids(config: dict[str, Any]) -> bool:
    entries = bundles.part(config, "linux").get("namespaces") or ()
    return any(entry.get("type") == "pid" and not entry.get("path") for entry in entries)


def parse_signal(text: str) -> int:
    """A number, or a name with or without SIG. InvalidArgument for anything else."""
    if text.lstrip("-").isdigit():
        number = int(text)
        if 0 <= number <= 64:
            return number
        raise InvalidArgument(f'unknown signal "{text}"')
    name = text.upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    found = getattr(signal, name, None) if name.isalnum() else None  # not SIG_BLOCK
    if not isinstance(found, int):
        raise InvalidArgument(f'unknown signal "{text}"')
    return int(found)


def pause(context: Context, arguments: Arguments) -> int:
    container = context.container(arguments.positional[0])
    with container.locked():
        record = container.load()
        status = container.status(record)
        if status not in (Status.RUNNING, Status.CREATED):
            raise Conflict(f"container not running or created: {status.value}")
        record.group().freeze()
    return 0


def resume(context: Context, arguments: Arguments) -> int:
    container = context.container(arguments.positional[0])
    with container.locked():
        record = container.load()
        if container.status(record) is not Status.PAUSED:
            raise Conflict("container not paused")
        record.group().thaw()
    return 0


# ---- delete ----


def delete(context: Context, arguments: Arguments) -> int:
    container = context.container(arguments.positional[0])
    force = arguments.switch("force")
    try:
        with container.locked():
            _delete(context, container, force=force)
    except NotFound:
        if not force:
            raise
    return 0


def _delete(context: Context, container: Container, *, force: bool) -> None:
    try:
        record = container.load()
    except NotFound:  # a creation that was killed before it wrote anything
        container.forget()
        raise
    status = container.status(record)
    if status not in (Status.STOPPED, Status.CREATED) and not force:
        # Who holds the lock is not creating it any more.
        raise Conflict(f"cannot delete container {container.id} that is not stopped: {status.value}")
    _end(container, record)
    _destroy(context, container, record)


def _end(container: Container, record: Record) -> None:
    fd = record.open_process()
    if fd is None:
        return
    try:
        _signal(container, record, fd, signal.SIGKILL)
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        if not poller.poll(_KILL_SECONDS * 1000):
            raise Internal("container init still running")
    except Conflict:
        return
    finally:
        os.close(fd)


def _free_group(context: Context, record: Record, config: dict[str, Any]) -> None:
    """Empty it and remove it. With the first process of a pid namespace all others have gone: whoever is still
    there belongs to a container that shares the group."""
    group = record.group()
    if not group.exists():
        return
    if not record.shared and not (record.pid and _has_own_pids(config)):
        group.kill_all()
    elif group.pids():
        context.log.warning(f"cgroup {group.path} is in use by others and stays")
        return
    group.remove()


def _destroy(context: Context, container: Container, record: Record) -> None:
    """Free what the container held, then tell the poststop hooks; a hook that fails is only a warning."""
    config = {}
    with contextlib.suppress(BulkheadError):
        config = container.load_config()
    _free_group(context, record, config)
    container.forget()
    if hooks.wanted(config, "poststop"):
        for warning in hooks.run_all(config, "poststop", _told(record, config, Status.STOPPED)):
            context.log.warning(warning)
