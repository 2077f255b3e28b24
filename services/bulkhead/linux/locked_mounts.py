"""Mounts as a less privileged user namespace may have them (mount_namespaces(7), "Restrictions on mount namespaces").

What such a namespace copies keeps its flags for good: nobody in it makes a read-only mount of the host writable, takes
a mount away to look beneath it, or mounts something where the host would see it. A detached copy that its privileged
maker hands in has none of that, unless it is a copy of such a copy.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from bulkhead.linux import fdpass, mounts, syscall
from bulkhead.linux.namespaces import NEWNS, NEWUSER

_NUMBER_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What `mounts.clone_below` takes."""

    path: str
    below: str = ""
    recursive: bool


class CloneError(OSError):
    """One of the sources cannot be had: `source` says which."""

    source: Source

    @classmethod
    def of(cls, source: Source, number: int) -> CloneError:
        error = cls(number, os.strerror(number), source.path)
        error.source = source
        return error


def clones(users: int, sources: Sequence[Source]) -> list[int]:
    """A detached copy of each, as whoever is root of the user namespace `users` may have it; paths are the caller's.

    Forks for a moment. Raises CloneError, OSError.
    """
    if not sources:
        return []
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        ours.close()
        _clone_and_leave(users, sources, theirs)
    theirs.close()
    received = list[int]()
    try:
        for source in sources:
            received.append(_received(ours, source))
    except BaseException:
        for fd in received:
            os.close(fd)
        raise
    finally:
        ours.close()  # a child that still sends hears of it
        os.waitpid(child, 0)
    return received


def _received(link: socket.socket, source: Source) -> int:
    message, descriptors = fdpass.receive(link, _NUMBER_BYTES, 1)
    if descriptors:
        return descriptors[0]
    raise CloneError.of(source, int.from_bytes(message, "little") or errno.EIO)


def _clone_and_leave(users: int, sources: Sequence[Source], link: socket.socket) -> None:
    """In a child: who changes its mount namespace must not share its directories with anybody."""
    number = errno.EIO
    try:
        try:
            syscall.call("setns", _copied_namespace(users), NEWNS)
            for source in sources:
                tree = mounts.clone_below(source.path, source.below, recursive=source.recursive)
                fdpass.send(link, bytes(_NUMBER_BYTES), [tree])
                os.close(tree)
        except OSError as error:
            number = error.errno or errno.EIO
            with contextlib.suppress(OSError):
                fdpass.send(link, number.to_bytes(_NUMBER_BYTES, "little"), [])
    finally:
        os._exit(0)


def _copied_namespace(users: int) -> int:
    """This mount namespace, copied by somebody in the user namespace; that one is gone again."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    held, holding = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _copy_and_wait(users, writing, held, holding)
    os.close(writing)
    try:
        number = int.from_bytes(os.read(reading, _NUMBER_BYTES), "little")
        if number:
            raise OSError(number, os.strerror(number))
        return os.open(f"/proc/{child}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(holding)
        os.waitpid(child, 0)


def _copy_and_wait(users: int, told: int, held: int, holding: int) -> None:
    number = errno.EIO
    try:
        os.close(holding)  # else the end of `held` would never come
        try:
            syscall.call("setns", users, NEWUSER)
            syscall.call("unshare", NEWNS)
            number = 0
        except OSError as error:
            number = error.errno or errno.EIO
        os.write(told, number.to_bytes(_NUMBER_BYTES, "little"))
        os.read(held, 1)
    finally:
        os._exit(0)
