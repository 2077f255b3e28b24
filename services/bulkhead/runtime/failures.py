"""A stage's report of failure as the error that the engine raises, in the words that clients know."""

from __future__ import annotations

import errno
import os

from bulkhead.errors import LaunchFailed
from bulkhead.nsexec import Report

PREFIX = (
    "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
)
_WRONG_KIND = (
    ": Are you trying to mount a directory onto a file (or vice-versa)? "
    "Check if the specified host path exists and is the expected type"
)
_NOT_FOUND = frozenset({errno.ENOENT, errno.ENOTDIR})
_NOT_EXECUTABLE = frozenset({errno.EACCES, errno.EISDIR, errno.ENOEXEC, errno.EPERM})


def launch_failed(report: Report) -> LaunchFailed:
    """Exit code 127 for a program that is not there, 126 for one that cannot be run, 128 for the rest."""
    text = f"{_text(report)}: unknown"
    if report.step == "user" and report.detail.startswith(("unable to find ", "uids and gids ")):
        return LaunchFailed(report.detail, step=report.step, errno=report.errno, exit_code=128)
    return LaunchFailed(PREFIX + text, step=report.step, errno=report.errno, exit_code=exit_code(report))


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
        return f'exec: "{report.detail}": {_program_reason(report, reason)}'
    if report.step == "cwd":
        return f'chdir to cwd ("{report.detail}") set in config.json failed: {reason}'
    if report.step == "mount":
        hint = _WRONG_KIND if report.errno == errno.ENOTDIR else ""
        return f'error mounting to rootfs at "{report.detail}": {reason}{hint}'
    return f"{report.step} {report.detail}: {reason}" if report.detail else f"{report.step}: {reason}"


def _program_reason(report: Report, reason: str) -> str:
    if report.step == "lookup" and "/" not in report.detail:
        return "executable file not found in $PATH"
    if report.errno in _NOT_FOUND:
        return f"stat {report.detail}: {reason}"
    if report.errno == errno.ENOEXEC:
        return "exec format error"
    return reason
