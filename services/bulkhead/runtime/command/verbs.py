"""Which verbs there are, what each takes, and where it is done."""

from __future__ import annotations

from dataclasses import dataclass

from bulkhead.runtime.command.arguments import LIST, NUMBER, SWITCH, TEXT, Options


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """`place` is "module.function" beside this one; `failure` the exit status of an error."""

    place: str
    usage: str
    summary: str
    options: Options
    least: int = 1
    most: int | None = 1
    mixed: bool = True
    failure: int = 1
    introduction: str = ""


GLOBAL = Options(
    {
        "debug": SWITCH,
        "log": TEXT,
        "log-format": TEXT,
        "root": TEXT,
        "criu": TEXT,
        "systemd-cgroup": SWITCH,
        "rootless": TEXT,
        "help h": SWITCH,
        "version v": SWITCH,
    }
)

_HELP = {"help h": SWITCH}

_CREATE = _HELP | {
    "bundle b": TEXT,
    "console-socket": TEXT,
    "pid-file": TEXT,
    "no-pivot": SWITCH,
    "no-new-keyring": SWITCH,
    "preserve-fds": NUMBER,
}

_EXEC = _HELP | {
    "process p": TEXT,
    "detach d": SWITCH,
    "pid-file": TEXT,
    "console-socket": TEXT,
    "tty t": SWITCH,
    "cwd": TEXT,
    "env e": LIST,
    "user u": TEXT,
    "additional-gids g": LIST,
    "cap c": LIST,
    "no-new-privs": SWITCH,
    "ignore-paused": SWITCH,
    "preserve-fds": NUMBER,
    "cgroup": LIST,
    "process-label": TEXT,
    "apparmor": TEXT,
}

_UPDATE = _HELP | {
    "resources r": TEXT,
    "blkio-weight": NUMBER,
    "cpu-period": TEXT,
    "cpu-quota": TEXT,
    "cpu-burst": TEXT,
    "cpu-idle": TEXT,
    "cpu-share": TEXT,
    "cpu-rt-period": TEXT,
    "cpu-rt-runtime": TEXT,
    "cpuset-cpus": TEXT,
    "cpuset-mems": TEXT,
    "kernel-memory": TEXT,
    "kernel-memory-tcp": TEXT,
    "memory": TEXT,
    "memory-reservation": TEXT,
    "memory-swap": TEXT,
    "pids-limit": NUMBER,
    "l3-cache-schema": TEXT,
    "mem-bw-schema": TEXT,
}

_CRIU = {
    **_HELP,
    **dict.fromkeys(
        (
            *("image-path", "work-path", "parent-path", "status-fd", "page-server", "manage-cgroups-mode", "empty-ns"),
            *("console-socket", "bundle b", "pid-file", "lsm-profile", "lsm-mount-context"),
        ),
        TEXT,
    ),
    **dict.fromkeys(
        (
            *("leave-running", "tcp-established", "tcp-skip-in-flight", "link-remap", "ext-unix-sk", "shell-job"),
            *("lazy-pages", "file-locks", "pre-dump", "auto-dedup", "detach d", "no-subreaper", "no-pivot"),
        ),
        SWITCH,
    ),
}

_ID = "<container-id>"

VERBS = {
    "checkpoint": Verb(
        place="unsupported.checkpoint", usage=_ID, summary="checkpoint a running container", options=Options(_CRIU)
    ),
    "create": Verb(
        place="lifecycle.create",
        usage=_ID,
        summary="create a container",
        options=Options(_CREATE),
        introduction="runc create failed: ",
    ),
    "delete": Verb(
        place="lifecycle.delete",
        usage=_ID,
        summary="delete any resources held by a container",
        options=Options(_HELP | {"force f": SWITCH}),
    ),
    "events": Verb(
        place="figures.events",
        usage=_ID,
        summary="display container events such as OOM notifications and usage statistics",
        options=Options(_HELP | {"interval": TEXT, "stats": SWITCH}),
    ),
    "exec": Verb(
        place="execs.execute",
        usage=f"{_ID} <command> [command options]",
        summary="execute new process inside the container",
        options=Options(_EXEC),
        most=None,
        mixed=False,
        failure=255,
        introduction="exec failed: ",
    ),
    "features": Verb(
        place="spec.features",
        usage="",
        summary="show the enabled features",
        options=Options(_HELP),
        least=0,
        most=0,
    ),
    "kill": Verb(
        place="lifecycle.kill",
        usage=f"{_ID} [signal]",
        summary="send the signal (default: SIGTERM) to the container's init process",
        options=Options(_HELP | {"all a": SWITCH}),
        most=2,
    ),
    "list": Verb(
        place="reports.listing",
        usage="",
        summary="list containers with the given root",
        options=Options(_HELP | {"format f": TEXT, "quiet q": SWITCH}),
        least=0,
        most=0,
    ),
    "pause": Verb(
        place="lifecycle.pause",
        usage=_ID,
        summary="suspend all processes inside the container",
        options=Options(_HELP),
    ),
    "ps": Verb(
        place="reports.processes",
        usage=f"{_ID} [ps options]",
        summary="display the processes running inside a container",
        options=Options(_HELP | {"format f": TEXT}),
        most=None,
        mixed=False,
    ),
    "restore": Verb(
        place="unsupported.restore",
        usage=_ID,
        summary="restore a container from a previous checkpoint",
        options=Options(_CRIU),
    ),
    "resume": Verb(
        place="lifecycle.resume",
        usage=_ID,
        summary="resume all processes that have been previously paused",
        options=Options(_HELP),
    ),
    "run": Verb(
        place="lifecycle.run",
        usage=_ID,
        summary="create and run a container",
        options=Options(_CREATE | {"detach d": SWITCH, "keep": SWITCH, "no-subreaper": SWITCH}),
        introduction="runc run failed: ",
    ),
    "spec": Verb(
        place="spec.write",
        usage="",
        summary="create a new specification file",
        options=Options(_HELP | {"bundle b": TEXT, "rootless": SWITCH}),
        least=0,
        most=0,
    ),
    "start": Verb(
        place="lifecycle.start",
        usage=_ID,
        summary="execute the user defined process in a created container",
        options=Options(_HELP),
    ),
    "state": Verb(place="reports.state", usage=_ID, summary="output the state of a container", options=Options(_HELP)),
    "update": Verb(
        place="resources.update",
        usage=_ID,
        summary="update container resource constraints",
        options=Options(_UPDATE),
    ),
}
