"""Descriptors and files that callers of a launching verb hand over or expect."""

from __future__ import annotations

import os

from bulkhead.errors import InvalidArgument
from bulkhead.linux import atomicfile
from bulkhead.runtime.rootfs import StdioFds


def stdio() -> StdioFds:
    """This command's own 0, 1 and 2; what is closed becomes the container's /dev/null."""
    first, second, third = (fd if _is_open(fd) else -1 for fd in (0, 1, 2))
    return StdioFds(stdin=first, stdout=second, stderr=third)


def preserved(count: int) -> int:
    """How many descriptors from 3 on the process keeps: systemd's (LISTEN_FDS), then `count` of the caller's."""
    listening = _listening()
    for index in range(count):
        fd = 3 + listening + index
        if not _is_open(fd):
            raise InvalidArgument(
                f"unable to stat preserved-fd {index} (of {count}): stat /proc/self/fd/{fd}: no such file or directory"
            )
    return listening + count


def _listening() -> int:
    text = os.environ.get("LISTEN_FDS", "")
    return int(text) if text.isdigit() else 0


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def listen_environment() -> list[str]:
    """What socket activation (sd_listen_fds(3)) needs in the process's environment."""
    listening = _listening()
    return [f"LISTEN_FDS={listening}", "LISTEN_PID=1"] if listening else []


def write_pid(path: str, pid: int) -> None:
    """A pid file appears whole: callers wait for its name, then read."""
    if path:
        atomicfile.write(path, str(pid).encode(), mode=0o644, durable=False)


def absolute(path: str) -> str:
    """Seen from where the command was called, whatever directory it works in later."""
    return os.path.abspath(path) if path else ""  # noqa: PTH100
