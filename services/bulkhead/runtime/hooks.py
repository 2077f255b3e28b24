"""OCI lifecycle hooks: those that run in the runtime's own namespaces, and the state that every hook reads.

prestart, createRuntime, poststart and poststop run here; createContainer and startContainer run in the stage
(nsinit/hooks.c), which gets their state's text by `state_parts`.
"""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Mapping
from typing import IO, Any

from bulkhead.errors import LaunchFailed
from bulkhead.nsexec import Report, ReportKind
from bulkhead.nsexec.plan import Hook, HookKind
from bulkhead.runtime.failures import CREATE, launch_failed

Config = Mapping[str, Any]

KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_INSIDE = {"createContainer": HookKind.CREATE_CONTAINER, "startContainer": HookKind.START_CONTAINER}
_OUTPUT_SHOWN = 600
# A new container can wait for its disk; nobody waits for it longer than that.
_STAGE_SECONDS = 120.0


def state(config: Config, *, container_id: str, bundle: str, status: str, pid: int) -> dict[str, Any]:
    """The state that the specification shows to hooks; `status` is creating, created, running or stopped."""
    shown: dict[str, Any] = {"ociVersion": config["ociVersion"], "id": container_id, "status": status}
    if status != "stopped":
        shown["pid"] = pid
    return shown | {"bundle": bundle, "annotations": dict(config.get("annotations") or {})}


def state_parts(config: Config, *, container_id: str, bundle: str) -> tuple[str, str, str]:
    """The state's JSON around the pid, which only the hook's own namespace can tell: while creating, when
    created, and what follows."""
    head = {"ociVersion": config["ociVersion"], "id": container_id}
    tail = {"bundle": bundle, "annotations": dict(config.get("annotations") or {})}
    creating, created = (json.dumps(head | {"status": status})[:-1] + ', "pid": ' for status in ("creating", "created"))
    return creating, created, ", " + json.dumps(tail)[1:]


def inside(config: Config) -> tuple[Hook, ...]:
    """The hooks that the stage runs. One without an environment has the container's, as with runc."""
    listed: Config = config.get("hooks") or {}
    own = tuple((config.get("process") or {}).get("env") or ())
    return tuple(
        Hook(
            kind=kind,
            path=entry["path"],
            argv=tuple(entry.get("args") or (entry["path"],)),
            env=tuple(entry["env"]) if entry.get("env") is not None else own,
            timeout=entry.get("timeout") or 0,
        )
        for name, kind in _INSIDE.items()
        for entry in listed.get(name) or ()
    )


def wanted(config: Config, kind: str) -> bool:
    """Whether the config has hooks of this kind."""
    return bool((config.get("hooks") or {}).get(kind))


def run(config: Config, kind: str, state: Mapping[str, Any]) -> None:
    """Run all hooks of a kind in order. LaunchFailed for the first that fails or exceeds its timeout; its whole
    process group is killed then, and the rest does not run."""
    for number, hook in enumerate((config.get("hooks") or {}).get(kind) or ()):
        problem = _problem(hook, json.dumps(state).encode())
        if problem:
            raise failed(f"hook #{number} ({kind}): {problem}")


def run_all(config: Config, kind: str, state: Mapping[str, Any]) -> list[str]:
    """Run every hook of a kind whatever the others do (poststop); what went wrong, as warnings."""
    problems = list[str]()
    for number, hook in enumerate((config.get("hooks") or {}).get(kind) or ()):
        problem = _problem(hook, json.dumps(state).encode())
        if problem:
            problems.append(f"error running hook #{number} ({kind}): {problem}")
    return problems


def failed(detail: str) -> LaunchFailed:
    """What a failed hook of the runtime's own namespaces is raised as: the same as one inside."""
    return launch_failed(Report(kind=ReportKind.ERROR, step="hook", errno=errno.ECANCELED, detail=detail), CREATE)


def time_limit(config: Config, *kinds: str) -> float | None:
    """Longer than any honest stage takes; nothing when a hook has no limit of its own."""
    due = [hook for kind in kinds for hook in (config.get("hooks") or {}).get(kind) or ()]
    if not all(hook.get("timeout") for hook in due):
        return None
    return _STAGE_SECONDS + float(sum(hook["timeout"] for hook in due))


def _problem(hook: Config, given: bytes) -> str | None:
    """None when it did its work. Input and output are memory files: what a hook leaves behind may hold them open."""
    with _memory(given) as state, _memory() as output:
        how = _outcome(hook, state, output)
        if how is None or how.startswith("fork/exec"):
            return how
        output.seek(0)
        return f"{how}, output: {output.read(_OUTPUT_SHOWN).decode(errors='replace')}"


def _memory(content: bytes = b"") -> IO[bytes]:
    file = os.fdopen(os.memfd_create("hook"), "w+b", buffering=0)
    file.write(content)
    file.seek(0)
    return file


def _outcome(hook: Config, state: IO[bytes], output: IO[bytes]) -> str | None:
    import subprocess

    environment = dict(entry.split("=", 1) for entry in hook.get("env") or () if "=" in entry)
    command = list(hook.get("args") or [hook["path"]])
    try:
        process = subprocess.Popen(
            command,
            executable=hook["path"],
            env=environment,
            stdin=state,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    except OSError as error:
        return f"fork/exec {hook['path']}: {(error.strerror or '').lower()}"
    with process:
        try:
            code = process.wait(hook.get("timeout") or None)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return "context deadline exceeded"
    if code == 0:
        return None
    return f"exit status {code}" if code > 0 else f"signal: {(signal.strsignal(-code) or str(-code)).lower()}"
