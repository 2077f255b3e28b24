"""One layer's tar applied to an empty directory that will be an overlay's lower directory.

Never a path where a descriptor will do: parents are opened beneath the layer's root without following
any symlink, the last component is created exclusively. What an OCI layer says by `.wh.` names becomes
overlayfs's own marks (a 0:0 character device, trusted.overlay.opaque); what only a forger would say (overlay
marks of its own, names that lead out or through links) is refused.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from bulkhead.content.tarstream import Entry, TarStream, refused_entry, safe_path
from bulkhead.errors import InvalidArgument
from bulkhead.linux.resolve import open_directory_beneath

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
# What aufs kept in its branches; old images carry it, nobody needs it.
_AUFS = frozenset({b".wh..wh.aufs", b".wh..wh.orph", b".wh..wh.plnk"})
_OPAQUE_XATTR = "trusted.overlay.opaque"
_FORBIDDEN_XATTRS = (b"trusted.overlay.", b"user.overlay.")
# Others (selinux, ima, trusted) are policy of the host that packed; Docker's own layers have only the first.
_APPLIED_XATTRS = (b"security.capability", b"system.posix_acl_", b"user.")
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_ID = 0xFFFFFFFF
_MAX_MAJOR, _MAX_MINOR = 0xFFF, 0xFFFFF
# Open parents: archives are written depth first, so few are wanted at a time.
_MAX_PARENTS = 128
_MAX_TIME_NS = 1 << 62


class Applied(NamedTuple):
    """What a layer held."""

    size: int
    """Bytes of its regular files."""
    entries: int
    implied: tuple[bytes, ...]
    """Directories that no entry described: they were made as root's, 0755."""


class LayerWriter:
    """Applies entries below `root`, a directory descriptor that stays the caller's.

    The process's umask must be 0, and nobody else may write below `root`.
    """

    def __init__(self, root: int, *, max_entries: int, max_size: int = 256 << 30) -> None:
        self._root = root
        self._max_entries = max_entries
        self._max_size = max_size
        self._parents: dict[bytes, int] = {b"": root}
        self._times: dict[bytes, int] = {}
        self._implied: dict[bytes, None] = {b"": None}
        self._whiteouts: set[bytes] = set()
        self._size = 0
        self._count = 0
        self._makers: dict[bytes, Callable[[Entry, bytes, int, bytes], None]] = {
            b"1": self._hard_link,
            b"2": self._symlink,
            b"3": self._device,
            b"4": self._device,
            b"5": self._directory,
            b"6": self._device,
        }

    def apply(self, tar: TarStream) -> Applied:
        """Everything in `tar`. Raises InvalidArgument for a hostile entry, OSError for the kernel's refusals."""
        try:
            for entry in tar.entries():
                self._count += 1
                if self._count > self._max_entries:
                    raise InvalidArgument(f"cannot unpack layer: more than {self._max_entries} entries")
                self._apply(entry, tar)
            self._set_directory_times()
        finally:
            self._forget_parents()
        return Applied(size=self._size, entries=self._count, implied=tuple(self._implied))

    def _apply(self, entry: Entry, tar: TarStream) -> None:
        path = safe_path(entry.name, "layer")
        _check_owner(entry)
        if entry.xattrs:
            _check_xattrs(entry)
        parent, _, base = path.rpartition(b"/")
        if not base:
            if entry.kind != b"5":
                raise _refused(entry.name, "it stands for the layer's root")
            self._describe_directory(entry, self._root)
            return
        if WHITEOUT in path and self._marked(entry, path, parent, base):
            return
        directory = self._parents.get(parent)
        if directory is None:
            directory = self._open_parent(parent, entry)
        if entry.kind == b"0":
            self._regular(entry, path, directory, base, tar)
        else:
            self._makers[entry.kind](entry, path, directory, base)

    def _regular(self, entry: Entry, path: bytes, directory: int, base: bytes, tar: TarStream) -> None:
        self._size += entry.size
        if entry.pieces is not None and self._size > self._max_size:
            # Holes too: what is there was counted as it came.
            raise InvalidArgument(f"cannot unpack layer: its files are of more than {self._max_size} bytes")
        try:
            fd = os.open(base, _CREATE, entry.mode & 0o777, dir_fd=directory)
        except FileExistsError:
            self._remove(path, directory, base)
            fd = os.open(base, _CREATE, entry.mode & 0o777, dir_fd=directory)
        try:
            tar.pour(fd)
            if entry.uid or entry.gid:
                os.fchown(fd, entry.uid, entry.gid)
            # After chown: the kernel takes setuid bits and capabilities away from a file that changes hands.
            if entry.mode & 0o7000:
                os.fchmod(fd, entry.mode)
            if entry.xattrs:
                set_xattrs(fd, entry.xattrs)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _directory(self, entry: Entry, path: bytes, directory: int, base: bytes) -> None:
        was_whiteout = path in self._whiteouts
        try:
            os.mkdir(base, entry.mode & 0o777, dir_fd=directory)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(base, dir_fd=directory, follow_symlinks=False).st_mode):
                self._remove(path, directory, base)
                os.mkdir(base, entry.mode & 0o777, dir_fd=directory)
        fd = os.open(base, _DIRECTORY, dir_fd=directory)
        try:
            self._describe_directory(entry, fd)
            if was_whiteout:
                # Removed and made anew: what lies below in lower layers stays hidden.
                os.setxattr(fd, _OPAQUE_XATTR, b"y")
        finally:
            os.close(fd)
        self._implied.pop(path, None)
        self._times[path] = entry.mtime_ns

    def _describe_directory(self, entry: Entry, fd: int) -> None:
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode)
        if entry.xattrs:
            set_xattrs(fd, entry.xattrs)
        if fd == self._root:
            self._times[b""] = entry.mtime_ns
            self._implied.pop(b"", None)

    def _symlink(self, entry: Entry, path: bytes, directory: int, base: bytes) -> None:
        if not entry.linkname:
            raise _refused(entry.name, "it is a symbolic link to nothing")
        try:
            os.symlink(entry.linkname, base, dir_fd=directory)
        except FileExistsError:
            self._remove(path, directory, base)
            os.symlink(entry.linkname, base, dir_fd=directory)
        self._describe_leaf(entry, directory, base)

    def _hard_link(self, entry: Entry, path: bytes, directory: int, base: bytes) -> None:
        target = safe_path(entry.linkname, "layer")
        if target == path:
            raise _refused(entry.name, "it is a hard link to itself")
        target_parent, _, target_base = target.rpartition(b"/")
        if not target_base:
            raise _refused(entry.name, "it is a hard link to the layer's root")
        try:
            source = self._parents.get(target_parent)
            if source is None:
                source = self._open_existing(target_parent)
            found = os.stat(target_base, dir_fd=source, follow_symlinks=False)
        except OSError as error:
            raise _refused(entry.name, f"it is a hard link to what is not in the layer: {error.strerror}") from error
        if stat.S_ISDIR(found.st_mode) or (stat.S_ISCHR(found.st_mode) and found.st_rdev == 0):
            raise _refused(entry.name, "it is a hard link to what may not have one")
        # Opening the target's parent may have pushed ours out of the cache.
        directory = self._open_parent(path.rpartition(b"/")[0], entry)
        try:
            os.link(target_base, base, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
        except FileExistsError:
            self._remove(path, directory, base)
            os.link(target_base, base, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)

    def _device(self, entry: Entry, path: bytes, directory: int, base: bytes) -> None:
        kind = {b"3": stat.S_IFCHR, b"4": stat.S_IFBLK, b"6": stat.S_IFIFO}[entry.kind]
        if entry.kind == b"3" and entry.major == 0 and entry.minor == 0:
            raise _refused(entry.name, "it is an overlay whiteout")
        if entry.major > _MAX_MAJOR or entry.minor > _MAX_MINOR:
            raise _refused(entry.name, f"there is no device {entry.major}:{entry.minor}")
        number = os.makedev(entry.major, entry.minor)
        try:
            os.mknod(base, kind | (entry.mode & 0o777), number, dir_fd=directory)
        except FileExistsError:
            self._remove(path, directory, base)
            os.mknod(base, kind | (entry.mode & 0o777), number, dir_fd=directory)
        self._describe_leaf(entry, directory, base)

    def _describe_leaf(self, entry: Entry, directory: int, base: bytes) -> None:
        if entry.uid or entry.gid:
            os.chown(base, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False)
        os.utime(base, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=directory, follow_symlinks=False)

    def _marked(self, entry: Entry, path: bytes, parent: bytes, base: bytes) -> bool:
        """Apply what a `.wh.` name says; False when the name only contains the letters."""
        if any(part.startswith(WHITEOUT) for part in parent.split(b"/")):
            if parent.split(b"/")[0] in _AUFS:
                return True
            raise _refused(entry.name, "a whiteout cannot be a directory")
        if not base.startswith(WHITEOUT):
            return False
        if base in _AUFS:
            return True
        if base == OPAQUE:
            os.setxattr(self._open_parent(parent, entry), _OPAQUE_XATTR, b"y")
            return True
        hidden = base.removeprefix(WHITEOUT)
        if hidden in (b"", b".", b"..") or hidden.startswith(WHITEOUT) or entry.kind not in (b"0", b"1"):
            raise _refused(entry.name, "it is no whiteout that means anything")
        self._white_out(entry, parent, hidden)
        return True

    def _white_out(self, entry: Entry, parent: bytes, hidden: bytes) -> None:
        directory = self._open_parent(parent, entry)
        try:
            os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=directory)
            self._whiteouts.add(parent + b"/" + hidden if parent else hidden)
        except FileExistsError:
            # The layer has something of that name itself: a file hides what is below anyway, a directory must say so.
            if stat.S_ISDIR(os.stat(hidden, dir_fd=directory, follow_symlinks=False).st_mode):
                self._make_opaque(directory, hidden)

    def _open_parent(self, path: bytes, entry: Entry) -> int:
        """The directory `path`, made as far as it is missing."""
        found = self._parents.get(path)
        if found is not None:
            return found
        try:
            return self._open_existing(path)
        except OSError as error:
            if not (isinstance(error, FileNotFoundError) or self._is_below_whiteout(path)):
                raise _way_refused(entry, error) from error
        self._make_parents(path, entry)
        return self._open_existing(path)

    def _is_below_whiteout(self, path: bytes) -> bool:
        return any(path == mark or path.startswith(mark + b"/") for mark in self._whiteouts)

    def _open_existing(self, path: bytes) -> int:
        fd = open_directory_beneath(self._root, path)
        if len(self._parents) > _MAX_PARENTS:
            self._forget_parents()
        self._parents[path] = fd
        return fd

    def _make_parents(self, path: bytes, entry: Entry) -> None:
        parts = path.split(b"/")
        for depth in range(1, len(parts) + 1):
            made = b"/".join(parts[:depth])
            above, _, base = made.rpartition(b"/")
            try:
                directory = self._parents[above] if above in self._parents else self._open_existing(above)
                hidden = made in self._whiteouts
                if hidden:
                    self._remove(made, directory, base)
                os.mkdir(base, 0o755, dir_fd=directory)
                if hidden:
                    self._make_opaque(directory, base)
                self._implied[made] = None
            except FileExistsError:
                continue
            except OSError as error:
                raise _way_refused(entry, error) from error

    def _make_opaque(self, directory: int, base: bytes) -> None:
        fd = os.open(base, _DIRECTORY, dir_fd=directory)
        try:
            os.setxattr(fd, _OPAQUE_XATTR, b"y")
        finally:
            os.close(fd)

    def _remove(self, path: bytes, directory: int, base: bytes) -> None:
        """Make way for a later entry of the same name."""
        self._whiteouts.discard(path)
        if not stat.S_ISDIR(os.stat(base, dir_fd=directory, follow_symlinks=False).st_mode):
            os.unlink(base, dir_fd=directory)
            return
        below = path + b"/"
        for table in (self._times, self._implied):
            for key in [key for key in table if key == path or key.startswith(below)]:
                del table[key]
        self._whiteouts = {key for key in self._whiteouts if not key.startswith(below)}
        for key in [key for key in self._parents if key == path or key.startswith(below)]:
            os.close(self._parents.pop(key))
        self._remove_tree(path)

    def _remove_tree(self, path: bytes) -> None:
        """Files as they are found, directories afterwards from the deepest; no recursion, hostile trees are deep."""
        directories = [path]
        for current in directories:
            fd = open_directory_beneath(self._root, current)
            try:
                with os.scandir(fd) as found:
                    names = [(os.fsencode(item.name), item.is_dir(follow_symlinks=False)) for item in found]
                for name, is_directory in names:
                    if is_directory:
                        directories.append(current + b"/" + name)
                    else:
                        os.unlink(name, dir_fd=fd)
            finally:
                os.close(fd)
        for current in reversed(directories):
            above, _, base = current.rpartition(b"/")
            fd = open_directory_beneath(self._root, above or b".")
            try:
                os.rmdir(base, dir_fd=fd)
            finally:
                os.close(fd)

    def _set_directory_times(self) -> None:
        """Last, because every entry made in a directory changed its time."""
        for path, mtime_ns in self._times.items():
            parent, _, base = path.rpartition(b"/")
            if not base:
                os.utime(self._root, ns=(mtime_ns, mtime_ns))
                continue
            directory = self._parents.get(parent)
            if directory is None:
                directory = self._open_existing(parent)
            os.utime(base, ns=(mtime_ns, mtime_ns), dir_fd=directory, follow_symlinks=False)

    def _forget_parents(self) -> None:
        for fd in self._parents.values():
            if fd != self._root:
                os.close(fd)
        self._parents = {b"": self._root}


def _check_owner(entry: Entry) -> None:
    if entry.uid >= _NO_ID or entry.gid >= _NO_ID:
        raise _refused(entry.name, f"there is no owner {entry.uid}:{entry.gid}")
    if not -_MAX_TIME_NS < entry.mtime_ns < _MAX_TIME_NS:
        raise _refused(entry.name, "there is no such time")


def _check_xattrs(entry: Entry) -> None:
    for name in entry.xattrs:
        if name.startswith(_FORBIDDEN_XATTRS):
            raise _refused(entry.name, f"it brings the overlay mark {name.decode('utf-8', 'replace')}")
        if b"\0" in name or len(name) > 255 or b"." not in name:
            raise _refused(entry.name, "it has an extended attribute with an impossible name")


def set_xattrs(fd: int, xattrs: dict[bytes, bytes]) -> None:
    """Those that an archive may set. Raises OSError."""
    for name, value in xattrs.items():
        if name.startswith(_APPLIED_XATTRS):
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                # A file system without them loses them, as with Docker.
                if error.errno != errno.ENOTSUP:
                    raise


def _way_refused(entry: Entry, error: OSError) -> Exception:
    reasons = {
        errno.ELOOP: "its way leads through a symbolic link",
        errno.EXDEV: "its way leads out",
        errno.ENOTDIR: "its way leads through what is no directory",
        errno.ENAMETOOLONG: "its name is too long",
    }
    reason = reasons.get(error.errno or 0)
    return _refused(entry.name, reason) if reason else error


def _refused(name: bytes, reason: str) -> InvalidArgument:
    return refused_entry("layer", name, reason)
