"""Execs: the bodies of create and start, and inspect."""

from __future__ import annotations

from typing import Any

from bulkhead.api.ports.execs import InspectedExec
from bulkhead.api.schema.hostconfig import Part, Unsigned32
from bulkhead.errors import InvalidArgument
from bulkhead.model.execs import ExecSpec


class ExecBody(Part):
    AttachStdin: bool | None = None
    AttachStdout: bool | None = None
    AttachStderr: bool | None = None
    Tty: bool | None = None
    Cmd: list[str] | None = None
    Env: list[str] | None = None
    User: str | None = None
    WorkingDir: str | None = None
    Privileged: bool | None = None
    DetachKeys: str | None = None
    ConsoleSize: list[Unsigned32] | None = None


class StartBody(Part):
    Detach: bool | None = None
    Tty: bool | None = None
    ConsoleSize: list[Unsigned32] | None = None


def spec_of(body: ExecBody) -> ExecSpec:
    """The exec that `body` asks for; raises InvalidArgument for one without a command."""
    command = tuple(body.Cmd or ())
    if not command:
        raise InvalidArgument("No exec command specified")
    for entry in body.Env or ():
        if not entry or entry.startswith("=") or "\0" in entry:
            raise InvalidArgument(f"invalid environment variable: {entry}")
    if any("\0" in word for word in command):
        raise InvalidArgument("invalid command: it contains a null byte")
    height, width = console_size(body.ConsoleSize)
    return ExecSpec(
        command=command,
        env=tuple(body.Env or ()),
        user=body.User or "",
        working_dir=body.WorkingDir or "",
        tty=bool(body.Tty),
        attach_stdin=bool(body.AttachStdin),
        attach_stdout=bool(body.AttachStdout),
        attach_stderr=bool(body.AttachStderr),
        privileged=bool(body.Privileged),
        detach_keys=body.DetachKeys or "",
        height=height,
        width=width,
    )


def console_size(size: list[int] | None) -> tuple[int, int]:
    """Height and width; zeros when not said."""
    if not size:
        return 0, 0
    if len(size) != 2:
        raise InvalidArgument("ConsoleSize must be [height, width]")
    return size[0], size[1]


def inspected(found: InspectedExec) -> dict[str, Any]:
    """The answer of `GET /exec/{id}/json`."""
    spec = found.spec
    return {
        "ID": found.id,
        "Running": found.running,
        "ExitCode": found.exit_code,
        "ProcessConfig": {
            "tty": spec.tty,
            "entrypoint": spec.command[0] if spec.command else "",
            "arguments": list(spec.command[1:]),
            "privileged": spec.privileged,
            **({"user": spec.user} if spec.user else {}),
        },
        "OpenStdin": spec.attach_stdin,
        "OpenStderr": spec.attach_stderr,
        "OpenStdout": spec.attach_stdout,
        "CanRemove": found.started and not found.running,
        "ContainerID": found.container_id,
        "DetachKeys": spec.detach_keys,
        "Pid": found.pid,
    }
