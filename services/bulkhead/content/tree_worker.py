"""The process that reads a container's tree: what it holds as a tar, or what has changed in it.

Its stdin says, as JSON: the parent's pid, what is wanted (`tree`, `layer` or `changes`), the upper directory, the
lower ones (topmost first), the paths the engine made. stdout is the tar, or records `<A|C|D><path>\\0`. The last
line of stderr is `r`, or `e <class of errors.py> <message as hex digits>`.

    tree      everything that the container sees, merged
    layer     what it changed, as a layer of an image: deletions are `.wh.` members
    changes   the same as `docker diff` tells it
"""

from __future__ import annotations

import errno
import json
import os
import resource
import stat
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from bulkhead import errors
from bulkhead.content import confine
from bulkhead.content.layers import OPAQUE as OPAQUE_NAME
from bulkhead.content.layers import WHITEOUT
from bulkhead.content.tarwriter import END, Member, header, padding
from bulkhead.content.treewalk import Visited, is_opaque, walk
from bulkhead.content.upper import Upper
from bulkhead.linux.detached import view

_BUFFER = 256 << 10
_PIPE = 1 << 20
_OPEN_FILES = 4096
_XATTRS = (b"security.capability", b"system.posix_acl_", b"user.")
_NOT_XATTRS = (b"user.overlay.",)
_KINDS = {stat.S_IFREG: b"0", stat.S_IFLNK: b"2", stat.S_IFCHR: b"3", stat.S_IFBLK: b"4", stat.S_IFDIR: b"5"} | {
    stat.S_IFIFO: b"6"
}
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE})


def main() -> NoReturn:
    """Do as told, say how it went, exit without running anything else."""
    try:
        _run(json.loads(sys.stdin.buffer.read()))
    except BrokenPipeError:
        pass  # nobody reads any more
    except BaseException as error:
        kind, message = _told(error)
        _say(f"e {kind} {message.encode('utf-8', 'replace').hex()}")
    else:
        _say("r")
    os._exit(0)


def _run(wanted: dict[str, Any]) -> None:
    confine.die_with_parent(wanted["parent"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_OPEN_FILES, most), most))
    upper, lower = wanted["upper"], wanted["lower"]
    if wanted["want"] == "tree":
        _Tar().write(walk(view([upper, *lower])))
        return
    difference = Upper(view([upper]), view(lower), [path.encode() for path in wanted["made"]])
    if wanted["want"] == "layer":
        _Tar(whiteouts=True).write(difference.entries())
        return
    out = _Output()
    for change in difference.changes():
        out.write(change.kind.value.encode() + change.path + b"\0")
    out.flush()


class _Output:
    """stdout, in pieces worth a system call."""

    def __init__(self) -> None:
        self._held = bytearray()

    def write(self, data: bytes) -> None:
        self._held += data
        if len(self._held) >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        held = memoryview(bytes(self._held))
        self._held.clear()
        while held:
            held = held[os.write(1, held) :]

    def copy(self, fd: int, size: int) -> None:
        """Exactly `size` bytes of a file: one that shrinks meanwhile ends in zeros."""
        left = size
        if size < _BUFFER:
            data = os.read(fd, size)
            self.write(data)
            left -= len(data)
        else:
            self.flush()
        while left:
            self.flush()
            sent = os.sendfile(1, fd, None, min(left, _PIPE))
            if not sent:
                break
            left -= sent
        while left:
            piece = min(left, _BUFFER)
            self.write(bytes(piece))
            left -= piece


class _Tar:
    """Members as Docker writes them: times in whole seconds, sockets left out."""

    def __init__(self, *, whiteouts: bool = False) -> None:
        self._whiteouts = whiteouts
        self._out = _Output()
        self._linked: dict[tuple[int, int], bytes] = {}

    def write(self, entries: Iterator[Visited]) -> None:
        for entry in entries:
            if self._whiteouts and entry.is_whiteout:
                self._mark(entry, entry.path[: -len(entry.name)] + WHITEOUT + entry.name, 0o600)
            elif (kind := _KINDS.get(stat.S_IFMT(entry.info.st_mode))) is not None:
                self._member(entry, kind)
        self._out.write(END)
        self._out.flush()

    def _member(self, entry: Visited, kind: bytes) -> None:
        info = entry.info
        link = _target(entry) if kind == b"2" else b""
        if kind == b"2" and not link:
            return
        if kind != b"5" and info.st_nlink > 1:
            first = self._linked.setdefault((info.st_dev, info.st_ino), entry.path)
            if first != entry.path:
                kind, link = b"1", first
        size = info.st_size if kind == b"0" else 0
        name = entry.path + b"/" if kind == b"5" else entry.path
        device = info.st_rdev if kind in b"34" else 0
        self._out.write(
            header(
                _member_of(entry, name)._replace(
                    kind=kind,
                    size=size,
                    link=link,
                    major=os.major(device),
                    minor=os.minor(device),
                    xattrs=_xattrs(entry.fd) if kind in b"05" else {},
                )
            )
        )
        if size:
            self._out.copy(entry.fd, size)
            self._out.write(padding(size))
        if kind == b"5" and self._whiteouts and is_opaque(entry.fd):
            self._mark(entry, name + OPAQUE_NAME, info.st_mode & 0o777)

    def _mark(self, entry: Visited, name: bytes, mode: int) -> None:
        self._out.write(header(_member_of(entry, name)._replace(kind=b"0", mode=mode)))


def _member_of(entry: Visited, name: bytes) -> Member:
    info = entry.info
    return Member(
        name=name,
        kind=b"0",
        mode=info.st_mode & 0o7777,
        uid=info.st_uid,
        gid=info.st_gid,
        mtime=info.st_mtime_ns // 1_000_000_000,
    )


def _target(entry: Visited) -> bytes:
    """Where a symlink leads; empty when it has just gone."""
    try:
        return os.readlink(entry.name, dir_fd=entry.parent)
    except OSError:
        return b""


def _xattrs(fd: int) -> dict[bytes, bytes]:
    found = {}
    for text in os.listxattr(fd):
        name = os.fsencode(text)
        if name.startswith(_XATTRS) and not name.startswith(_NOT_XATTRS):
            try:
                found[name] = os.getxattr(fd, text)
            except OSError as error:
                if error.errno != errno.ENODATA:
                    raise
    return found


def _told(error: BaseException) -> tuple[str, str]:
    """(class, message) for the parent."""
    if isinstance(error, errors.BulkheadError):
        return type(error).__name__, str(error)
    if isinstance(error, OSError):
        kind = "ResourceExhausted" if error.errno in _FULL else "Internal"
        return kind, f"cannot read tree: {(error.strerror or str(error)).lower()}"
    return "Internal", f"cannot read tree: {type(error).__name__}: {error}"


def _say(line: str) -> None:
    os.write(2, line.encode() + b"\n")


if __name__ == "__main__":
    main()
