"""A stage's report of failure as the error that the engine raises, in the words that clients know."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass

from bulkhead.errors import LaunchFailed
from bulkhead.nsexec import Report


@dataclass(frozen=True, slots=True)
class Occasion:
    """How Docker introduces the failure: of a container, or of a further process in one."""

    prefix: str


CREATE = Occasion(
    "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
)
EXEC = Occasion("OCI runtime exec failed: exec failed: unable to start container process: ")

_WRONG_KIND = (
    ": Are you trying to mount a directory onto a file (or vice-versa)? "
    "Check if the specified host path exists and is the expected type"
)
_NOT_FOUND = frozenset({errno.ENOENT, errno.ENOTDIR})
_NOT_EXECUTABLE = frozenset({errno.EACCES, errno.EISDIR, errno.ENOEXEC, errno.EPERM})
_COMPLETE_TEXTS = ("unable to find ", "uids and gids ")


def launch_failed(report: Report, occasion: Occasion) -> LaunchFailed:
    """With exit code 127 for a program that is not there, 126 for one that cannot be run, 128 for the rest."""
    if report.step == "user" and report.detail.startswith(_COMPLETE_TEXTS):
        text = report.detail
    else:
        text = f"{occasion.prefix}{_text(report)}: unknown"
        # What Docker adds to the runtime's words.
        text += _WRONG_KIND if report.step == "mount" and report.errno == errno.ENOTDIR else ""
    return LaunchFailed(text, step=report.step, errno=report.errno, exit_code=exit_code(report))


def exit_code(report: Report) -> int:
    """What Docker reports as the exit status of a container that could not start."""
    if report.step in ("lookup", "exec"):
        if report.errno in _NOT_FOUND:
            return 127
        if report.errno in _NOT_EXECUTABLE:
            return 126
    if report.step == "mount" and report.errno == errno.ENOTDIR:
        return 127
    return 128


def _text(report: Report) -> str:
    reason = os.strerror(report.errno).lower()
    if report.step in ("lookup", "exec"):
        return f"exec: {_quoted(report.detail)}: {_program_reason(report, reason)}"
    if report.step == "cwd":
        return f'chdir to cwd ("{report.detail}") set in config.json failed: {reason}'
    if report.step == "hook":
        told = report.errno == errno.ECANCELED
        return f"error running {report.detail}" + ("" if told else f": {reason}")
    if report.step == "mount":
        return f"error during container init: error mounting {_mount_failure(report, reason)}"
    detail = report.detail.replace("\n", ": ")
    return f"{report.step} {detail}: {reason}" if detail else f"{report.step}: {reason}"


def _quoted(text: str) -> str:
    """As Go's %q: Docker's words are Go's."""
    return json.dumps(text, ensure_ascii=False)


def _mount_failure(report: Report, reason: str) -> str:
    """What the kernel itself said of an option is on a line of its own, with the file system's type before it."""
    place, line, words = report.detail.rpartition("\n")
    if not line:
        return f'to rootfs at "{report.detail}": {_mount_reason(report, reason)}'
    kind, _, words = words.partition(": ")
    return f'"{kind}" to rootfs at "{place}": {words}: {reason}'


def _mount_reason(report: Report, reason: str) -> str:
    inside_proc = report.detail == "/proc" or report.detail.startswith("/proc/")
    if report.errno == errno.EPERM and inside_proc:
        return f'"{report.detail}" cannot be mounted because it is inside /proc'
    return reason


def _program_reason(report: Report, reason: str) -> str:
    if report.step == "lookup" and "/" not in report.detail:
        return "executable file not found in $PATH"
    if report.errno in _NOT_FOUND:
        return f"stat {report.detail}: {reason}"
    return reason
