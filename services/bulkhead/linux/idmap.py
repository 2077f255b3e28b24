"""Id mappings of user namespaces (user_namespaces(7)): written by a privileged parent, by newuidmap, or as the one
line that everybody may write."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from bulkhead.linux import syscall
from bulkhead.linux.namespaces import NEWUSER

# first id inside, first id outside, count
Mapping = tuple[int, int, int]
MAX_LINES = 340


def write(pid: int, uids: Sequence[Mapping], gids: Sequence[Mapping]) -> None:
    """Map the user namespace of a process that has just made it. OSError when the kernel or newuidmap refuses."""
    if os.geteuid() == 0:
        _write(pid, "uid_map", _lines(uids))
        _write(pid, "gid_map", _lines(gids))
        return
    if is_single(gids):
        _write(pid, "setgroups", "deny")
        _write(pid, "gid_map", _lines(gids))
    else:
        _by_program("newgidmap", pid, gids)
    if is_single(uids):
        _write(pid, "uid_map", _lines(uids))
    else:
        _by_program("newuidmap", pid, uids)


def is_single(mappings: Sequence[Mapping]) -> bool:
    """One line of one id: what an unprivileged user writes without help, and then without setgroups."""
    return len(mappings) == 1 and mappings[0][2] == 1


def covers(mappings: Sequence[Mapping], inside: int) -> bool:
    """Whether this id of the namespace means anybody outside."""
    return any(first <= inside < first + count for first, _, count in mappings)


def outside(mappings: Sequence[Mapping], inside: int) -> int:
    """Who an id of the namespace is outside. KeyError when that is nobody."""
    for first, other, count in mappings:
        if first <= inside < first + count:
            return other + inside - first
    raise KeyError(inside)


def root_of(pid: int | str) -> tuple[int, int]:
    """The host's ids of root in a process's user namespace. Raises OSError, also when nobody is root there."""
    found = [_outside(Path(f"/proc/{pid}/{file}").read_text()) for file in ("uid_map", "gid_map")]
    return found[0], found[1]


def _outside(text: str) -> int:
    for line in text.splitlines():
        inside, outside, _ = map(int, line.split())
        if inside == 0:
            return outside
    raise OSError(errno.ENOENT, "the user namespace has no root")


def root_in(users: int) -> tuple[int, int]:
    """The same of a user namespace by its descriptor. Forks for a moment."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _tell_root(users, writing)
    os.close(writing)
    try:
        told = os.read(reading, 64).split()
    finally:
        os.close(reading)
        os.waitpid(pid, 0)
    if len(told) != 2:
        raise OSError(errno.EPERM, "cannot look into the user namespace")
    return int(told[0]), int(told[1])


def _tell_root(users: int, told: int) -> None:
    """Who looks from inside sees the ids of the namespace above, which is ours."""
    try:
        with contextlib.suppress(OSError):
            syscall.call("setns", users, NEWUSER)
            os.write(told, b"%d %d" % root_of("self"))
    finally:
        os._exit(0)


def namespace(uids: Sequence[Mapping], gids: Sequence[Mapping]) -> int:
    """Descriptor of a user namespace that is there for its mappings only (idmapped mounts). Forks for a moment."""
    ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
    done_read, done_write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _unshare_and_wait(ready_write, done_read, done_write)
    os.close(ready_write)
    os.close(done_read)
    try:
        number = int.from_bytes(os.read(ready_read, 4), "little")
        if number:
            raise OSError(number, os.strerror(number))
        write(pid, uids, gids)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready_read)
        os.close(done_write)
        os.waitpid(pid, 0)


def _unshare_and_wait(ready: int, done: int, held: int) -> None:
    number = errno.EIO
    try:
        os.close(held)  # else the end of `done` would never come
        try:
            syscall.call("unshare", NEWUSER)
            number = 0
        except OSError as error:
            number = error.errno or errno.EIO
        os.write(ready, number.to_bytes(4, "little"))
        os.read(done, 1)
    finally:
        os._exit(0)


def _lines(mappings: Sequence[Mapping]) -> str:
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in mappings)


def _write(pid: int, file: str, text: str) -> None:
    path = f"/proc/{pid}/{file}"
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)


def _by_program(name: str, pid: int, mappings: Sequence[Mapping]) -> None:
    import subprocess

    path = shutil.which(name)
    if path is None:
        raise OSError(errno.ENOENT, f"{name} is not installed, and without it only one id can be mapped", name)
    words = [str(number) for mapping in mappings for number in mapping]
    done = subprocess.run([path, str(pid), *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(errno.EPERM, f"{name}: {done.stderr.strip()}", name)


@functools.cache
def in_initial_namespace() -> bool:
    """Whether this process's user namespace maps every id to itself, as the first one does."""
    with contextlib.suppress(OSError):
        return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
    return True
