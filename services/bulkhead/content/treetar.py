"""A walked tree as a tar on stdout, for the processes that read containers' files."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable

from bulkhead.content.layers import OPAQUE as OPAQUE_NAME
from bulkhead.content.layers import WHITEOUT
from bulkhead.content.tarwriter import END, Member, header, padding
from bulkhead.content.treewalk import Visited, is_opaque

_BUFFER = 256 << 10
_PIPE = 1 << 20
_XATTRS = (b"security.capability", b"system.posix_acl_", b"user.")
_NOT_XATTRS = (b"user.overlay.",)
_KINDS = {stat.S_IFREG: b"0", stat.S_IFLNK: b"2", stat.S_IFCHR: b"3", stat.S_IFBLK: b"4", stat.S_IFDIR: b"5"} | {
    stat.S_IFIFO: b"6"
}


class Output:
    """stdout, in pieces worth a system call."""

    def __init__(self) -> None:
        self._held = bytearray()

    def write(self, data: bytes) -> None:
        self._held += data
        if len(self._held) >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        held, self._held = memoryview(self._held), bytearray()
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


class TreeTar:
    """Members as Docker writes them: times in whole seconds, sockets left out."""

    def __init__(self, *, whiteouts: bool = False, named: Callable[[bytes], bytes] = bytes) -> None:
        """`named` says how what is at a path is called in the archive."""
        self._whiteouts = whiteouts
        self._named = named
        self._out = Output()
        self._linked: dict[tuple[int, int], bytes] = {}

    def write(self, entries: Iterable[Visited]) -> None:
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
                kind, link = b"1", self._named(first)
        size = info.st_size if kind == b"0" else 0
        name = self._named(entry.path)
        if kind == b"5" and not name.endswith(b"/"):
            name += b"/"
        device = info.st_rdev if kind in b"34" else 0
        member = Member(
            name=name,
            kind=kind,
            mode=info.st_mode & 0o7777,
            uid=info.st_uid,
            gid=info.st_gid,
            size=size,
            mtime=info.st_mtime_ns // 1_000_000_000,
            link=link,
            major=os.major(device),
            minor=os.minor(device),
            xattrs=_xattrs(entry.fd) if kind in b"05" else {},
        )
        self._out.write(header(member))
        if size:
            self._out.copy(entry.fd, size)
            self._out.write(padding(size))
        if kind == b"5" and self._whiteouts and is_opaque(entry.fd):
            self._mark(entry, name + OPAQUE_NAME, info.st_mode & 0o777)

    def _mark(self, entry: Visited, name: bytes, mode: int) -> None:
        owner, mtime = entry.info, entry.info.st_mtime_ns // 1_000_000_000
        self._out.write(
            header(Member(name=name, kind=b"0", mode=mode, uid=owner.st_uid, gid=owner.st_gid, mtime=mtime))
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
