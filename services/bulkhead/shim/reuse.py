"""Whether a shim that has left its container may be another's: only if nothing tells it from the spare that it was.

Whatever belongs to a life is made anew for the next one. What a process keeps from life to life is looked at here, and
one that has more or other of it than it had as a spare ends, as if there were no second life.
"""

from __future__ import annotations

import os
import sys
import time
from typing import cast

from bulkhead.linux import atomicfile

# So that nothing that grows unseen grows for long.
_MOST_LIVES = 200
# In kilobytes, of memory that it shares with nobody, beyond what a spare has. Lives make 0.2 to 1.7 MiB of it.
_MOST_GROWN = 4 << 10
_PROC = "/proc/self"
_ALIKE = (
    *(b"Umask", b"Uid", b"Gid", b"Groups", b"Threads", b"SigBlk", b"SigIgn"),
    *(b"CapEff", b"CapBnd", b"NoNewPrivs", b"Seccomp", b"Cpus_allowed", b"Mems_allowed"),
)
_CAUGHT = b"SigCgt"
# Of the C library, which takes them with the first thread (nptl(7)).
_INTERNAL = 1 << 31 | 1 << 32
_GROWS = b"RssAnon"
_LOOKED_AT = {name: b"\n%b:\t" % name for name in (*_ALIKE, _CAUGHT, _GROWS)}
_PLACES = ("cwd", "root", "ns/cgroup", "ns/ipc", "ns/mnt", "ns/net", "ns/pid", "ns/user", "ns/uts")
# A thread that has done its work may not be gone yet.
_PAUSE, _TRIES = 0.001, 50
# A parked process has no exit signal yet: waitid(2) finds it only so.
_WALL = 0x40000000


class Slate:
    """The process as it is now, to be compared with what it is after a life."""

    def __init__(self) -> None:
        self._files = _files()
        self._alike = _alike(_status())
        self._modules = len(sys.modules)
        self._environment = dict(_environment())
        self._lives = 0
        self.weigh()

    def weigh(self) -> None:
        """The memory that it has now is a spare's."""
        self._size = _size(_status())

    def is_clean(self) -> bool:
        """One life more is over, and whether it has left nothing. Raises OSError."""
        self._lives += 1
        _await_threads()
        status = _status()
        return (
            self._lives < _MOST_LIVES
            and not _has_children()
            and len(sys.modules) == self._modules
            and _alike(status) == self._alike
            and _files() == self._files
            and _environment() == self._environment
            and _size(status) <= self._size + _MOST_GROWN
        )


def _files() -> dict[str, str]:
    """What each descriptor is, and where the process is; but for the one that lists them."""
    found = {name: _target(f"{_PROC}/{name}") for name in _PLACES}
    listing = os.open(f"{_PROC}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        own = str(listing)
        found |= {number: _target(number, listing) for number in os.listdir(listing) if number != own}  # noqa: PTH208
    finally:
        os.close(listing)
    return {name: target for name, target in found.items() if target}


def _target(name: str, directory: int | None = None) -> str:
    try:
        return os.readlink(name, dir_fd=directory)
    except FileNotFoundError:
        return ""


def _environment() -> dict[bytes, bytes]:
    """As the interpreter has it: to decode it takes longer than to look at all the rest."""
    return cast("dict[bytes, bytes]", vars(os.environ)["_data"])


def _status() -> dict[bytes, bytes]:
    """Of proc_pid_status(5), what is looked at."""
    told = atomicfile.read(f"{_PROC}/status", 1 << 14)
    return {name: told.partition(begins)[2].partition(b"\n")[0] for name, begins in _LOOKED_AT.items()}


def _alike(status: dict[bytes, bytes]) -> tuple[object, ...]:
    return int(status[_CAUGHT], 16) & ~_INTERNAL, *(status[name] for name in _ALIKE)


def _size(status: dict[bytes, bytes]) -> int:
    return int(status[_GROWS].split()[0])


def _await_threads() -> None:
    for _ in range(_TRIES):
        # Its own, and the two that every directory has.
        if os.stat(f"{_PROC}/task").st_nlink == 3:  # noqa: PTH116 -- see linux.atomicfile
            return
        time.sleep(_PAUSE)


def _has_children() -> bool:
    """Alive, or dead and not reaped."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT | _WALL)
    except ChildProcessError:
        return False
    return True
