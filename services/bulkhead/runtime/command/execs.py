"""exec: a further process, from a process.json or from options over the container's own process."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bulkhead.errors import Conflict, InvalidArgument
from bulkhead.linux import atomicfile, pidfd
from bulkhead.linux.cgroups import Cgroup
from bulkhead.runtime import filters, launch
from bulkhead.runtime.command import bundles, handles, terminals
from bulkhead.runtime.command.arguments import Arguments
from bulkhead.runtime.command.context import Context
from bulkhead.runtime.state import Container, Record, Status, filter_cache

_LIMIT = 64 << 20
_GLANCE_SECONDS = 0.05


def execute(context: Context, arguments: Arguments) -> int:
    """In the foreground the exit status is the process's."""
    container = context.container(arguments.positional[0])
    record = container.load()
    _check_running(container, record, arguments)
    wanted = _Wanted(context, container, record, arguments)
    process = _process(wanted.config, arguments)
    detached = arguments.switch("detach")
    terminals.check(
        terminal=process.get("terminal") is True, detached=detached, console_socket=arguments.text("console-socket")
    )
    if detached:
        wanted.launch(process)
        return 0
    from bulkhead.runtime.command import foreground

    with foreground.signals() as wakeup:
        running = wanted.launch(process)
        return foreground.attend(running.pidfd, running.console, wakeup)


class _Wanted:
    """A further process in the making."""

    def __init__(self, context: Context, container: Container, record: Record, arguments: Arguments) -> None:
        self._context = context
        self._container = container
        self._record = record
        self._arguments = arguments
        self._pid_file = handles.absolute(arguments.text("pid-file"))
        self.config = container.load_config()

    def launch(self, process: dict[str, Any]) -> launch.ExecProcess:
        if bundles.part(self.config, "linux").get("seccomp"):
            filters.use_directory(Path(filter_cache(self._context.root)))
        running = launch.exec_(
            task=_task(self._container, self._record, self._arguments),
            config=self.config,
            process=process,
            stdio=handles.stdio(),
            bundle=self._record.bundle,
            preserve_fds=handles.preserved(self._arguments.number("preserve-fds")),
            trace=self._context.log.tracer(),
        )
        for warning in running.warnings:
            self._context.log.warning(warning)
        with _killed_on_failure(running.pidfd):
            console_socket = self._arguments.text("console-socket")
            if running.console is not None and console_socket:
                terminals.hand_over(console_socket, running.console)
            handles.write_pid(self._pid_file, running.pid)
        return running


def _check_running(container: Container, record: Record, arguments: Arguments) -> None:
    status = container.status(record)
    if status in (Status.STOPPED, Status.CREATING):
        raise Conflict("cannot exec in a stopped container")
    if status is Status.PAUSED and not arguments.switch("ignore-paused"):
        raise Conflict("cannot exec in a paused container (use --ignore-paused to override)")
    # Who joins a frozen group freezes, and this command with it: wait outside instead.
    while container.status(record) is Status.PAUSED:
        time.sleep(_GLANCE_SECONDS)


def _task(container: Container, record: Record, arguments: Arguments) -> launch.Task:
    fd = record.open_process()
    if fd is None:
        raise Conflict("cannot exec in a stopped container")
    return launch.Task(
        container_id=container.id,
        pid=record.pid,
        pidfd=fd,
        start_time=record.start_time,
        cgroup=_group(record, arguments.texts("cgroup")),
    )


def _group(record: Record, chosen: list[str]) -> Cgroup:
    """The container's group, or groups below it that the caller names: `path`, or `controller,...:path` each."""
    places = dict(record.cgroup)
    for choice in chosen:
        if choice.count(":") > 1:
            raise InvalidArgument(f"invalid --cgroup argument: {choice}")
        if ":" not in choice and len(chosen) > 1:
            raise InvalidArgument(f"invalid --cgroup argument: {choice} (missing <controller>: prefix)")
        names, _, below = choice.rpartition(":")
        places |= _below(record.cgroup, names.split(",") if names else list(record.cgroup), below)
    return Cgroup.at(places).present() if chosen else Cgroup.at(places)


def _below(cgroup: Mapping[str, str], names: list[str], below: str) -> dict[str, str]:
    parts = [part for part in below.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidArgument(f"bad sub cgroup path: {below} is not a sub cgroup path")
    found = dict[str, str]()
    for name in names:
        if name not in cgroup:
            raise InvalidArgument(f'unknown controller "{name}" in --cgroup')
        found[name] = "/".join([cgroup[name], *parts])
        # Beside v1 the v2 hierarchy is only where processes are born: nobody has made a group there by hand.
        if not os.path.isdir(found[name]) and (name or len(cgroup) == 1):  # noqa: PTH112
            raise InvalidArgument(f"adding pid to {found[name]}/cgroup.procs: no such file or directory")
    return found


@contextlib.contextmanager
def _killed_on_failure(fd: int) -> Iterator[None]:
    """A process that its caller will not hear of does not stay."""
    try:
        yield
    except BaseException:
        pidfd.send_signal(fd, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            pidfd.wait(fd)
        raise


# ---- which process ----


def _process(config: dict[str, Any], arguments: Arguments) -> dict[str, Any]:
    if path := arguments.text("process"):
        try:
            content = atomicfile.read(path, _LIMIT)
        except OSError as error:
            raise InvalidArgument(f"open {path}: {(error.strerror or '').lower()}") from error
        return _checked(bundles.parse(content, path))
    if len(arguments.positional) < 2:
        raise InvalidArgument("process args cannot be empty")
    return _checked(_from_options(bundles.part(config, "process"), arguments))


def _checked(process: dict[str, Any]) -> dict[str, Any]:
    cwd = process.get("cwd")
    if not cwd:
        raise InvalidArgument("Cwd property must not be empty")
    if not isinstance(cwd, str) or not os.path.isabs(cwd):  # noqa: PTH117
        raise InvalidArgument("Cwd must be an absolute path")
    if not process.get("args"):
        raise InvalidArgument("args must not be empty")
    return process


def _from_options(base: dict[str, Any], arguments: Arguments) -> dict[str, Any]:
    process = {**base, "args": arguments.positional[1:], "terminal": arguments.switch("tty")}
    process["env"] = [*(base.get("env") or ()), *arguments.texts("env")]
    for option, key in (("cwd", "cwd"), ("apparmor", "apparmorProfile"), ("process-label", "selinuxLabel")):
        if value := arguments.text(option):
            process[key] = value
    if "no-new-privs" in arguments.values:
        process["noNewPrivileges"] = arguments.switch("no-new-privs")
    if added := arguments.texts("cap"):
        process["capabilities"] = _with_capabilities(bundles.part(base, "capabilities"), added)
    process["user"] = _user(bundles.part(base, "user"), arguments)
    return process


def _with_capabilities(sets: dict[str, Any], added: list[str]) -> dict[str, Any]:
    changed = ("bounding", "effective", "permitted", "ambient")
    return {**sets, **{name: [*(sets.get(name) or ()), *added] for name in changed}}


def _user(base: dict[str, Any], arguments: Arguments) -> dict[str, Any]:
    user = dict(base)
    if text := arguments.text("user"):
        uid, colon, gid = text.partition(":")
        user["uid"] = _number(uid, "uid")
        if colon:
            user["gid"] = _number(gid, "gid")
        user.pop("username", None)
    if groups := arguments.texts("additional-gids"):
        user["additionalGids"] = [*(base.get("additionalGids") or ()), *(_number(text, "gid") for text in groups)]
    return user


def _number(text: str, kind: str) -> int:
    if not text.isdigit():
        raise InvalidArgument(f"parsing {text} as int for {kind} failed: invalid syntax")
    return int(text)
