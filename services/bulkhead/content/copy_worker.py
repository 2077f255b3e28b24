"""The process behind `docker cp`: looks at, reads or fills a path of a container, confined to the container's files.

Its stdin is a JSON object that says what to do (`copies.Wanted`). For `fill` the archive comes to a socket of its own
(`inlets`). On stdout, for `look` and `read`, a line of JSON says what is at the path; for `read` the tar follows. The
last line of stderr is `r`, or `e <class of errors.py> <message as hex digits>`.
"""

from __future__ import annotations

import errno
import json
import os
import posixpath
import resource
import shutil  # noqa: F401 - nothing can be imported once the root is the container's
import stat
from collections.abc import Iterator
from typing import Any, NoReturn

from bulkhead import errors
from bulkhead.content import confine, container_view
from bulkhead.content.copy_in import CopyIn, Target
from bulkhead.content.inflate import Limits, bounded, preload
from bulkhead.content.inlets import Incoming
from bulkhead.content.tarstream import TarStream
from bulkhead.content.treetar import Output, TreeTar
from bulkhead.content.treewalk import Visited, visit, walk
from bulkhead.linux import resolve

_OPEN_FILES = 4096
_ADDRESS_SPACE = 2 << 30
_MOST_LINKS = 255
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
_ENTRY_ERRORS = frozenset({errno.ENAMETOOLONG, errno.EINVAL, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EXDEV})


def main() -> NoReturn:
    """Do as told, say how it went, exit without running anything else."""
    try:
        _run(_told_what())
    except BrokenPipeError:
        pass  # nobody reads any more
    except BaseException as error:
        kind, message = _told(error)
        os.write(2, f"e {kind} {message.encode('utf-8', 'replace').hex()}\n".encode())
    else:
        os.write(2, b"r\n")
    os._exit(0)


def _told_what() -> dict[str, Any]:
    with open(0, "rb") as stdin:
        told: dict[str, Any] = json.load(stdin)
    return told


def _run(wanted: dict[str, Any]) -> None:
    confine.die_with_parent(wanted["parent"])
    _limit()
    archive = None if wanted["inlet"] is None else Incoming(wanted["inlet"])
    preload(archive.head if archive else b"")
    os.umask(0)
    # Looked up before there is no /proc but what the container could have put there.
    descriptors = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    layers = container_view.Layers(**wanted["layers"])
    root = container_view.enter(
        layers,
        [container_view.Place(*each) for each in wanted["places"]],
        writable=archive is not None,
        read_only=wanted["read_only"],
    )
    place = _Place(root, descriptors, wanted["path"], wanted["ref"])
    if archive is not None:
        with container_view.as_root(layers):
            confine.die_with_parent(wanted["parent"])  # which a change of ids has ended
            _fill(place, wanted, layers, archive)
    else:
        _show(place, with_tar=wanted["want"] == "read")


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_OPEN_FILES, most), most))


class _Place:
    """A path as its user wrote it: a slash or `/.` at the end means what a symlink leads to."""

    def __init__(self, root: int, descriptors: int, path: str, ref: str) -> None:
        self.root = root
        self.written = path
        self._ref = ref
        self._descriptors = descriptors
        clean = posixpath.normpath("/" + path.lstrip("/"))
        last = posixpath.basename(path)
        self.base = "." if last == "." else posixpath.basename(clean) or "/"
        self.follows = last in ("", ".") or clean == "/"
        self._ending = f"/{last}" if self.follows else ""
        self.path = clean

    def real(self, fd: int) -> str:
        """Where below the root a descriptor is."""
        return os.readlink(str(fd), dir_fd=self._descriptors)

    def find(self) -> Visited:
        """What is there. Raises NotFound and InvalidArgument with Docker's texts."""
        try:
            path = self.path
            if self.follows:
                fd = resolve.open_in_root(self.root, path, os.O_PATH | os.O_DIRECTORY)
                path = self.real(fd)
                os.close(fd)
            if path == "/":
                directory = resolve.open_in_root(self.root, "/", os.O_RDONLY | os.O_DIRECTORY)
                return Visited(b"", b"/", directory, os.fstat(directory), directory)
            parent, _, name = path.rpartition("/")
            above = resolve.open_in_root(self.root, parent or "/", os.O_RDONLY | os.O_DIRECTORY)
            os.stat(name, dir_fd=above, follow_symlinks=False)
            found = visit(above, os.fsencode(name), os.fsencode(name))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self.told(error) from None
        if found is None:
            raise self.missing()
        return found

    def told(self, error: FileNotFoundError | NotADirectoryError) -> errors.BulkheadError:
        """What the user hears of a path that leads nowhere."""
        if isinstance(error, FileNotFoundError):
            return self.missing()
        return errors.InvalidArgument(f"lstat {self.path}{self._ending}: not a directory")

    def missing(self) -> errors.NotFound:
        return errors.NotFound(f"Could not find the file {self.written} in container {self._ref}")

    def link_target(self) -> str:
        """Where the symlink leads in the end, also when nothing is there."""
        todo, done, links = self.path.split("/")[1:][::-1], [""], 0
        while todo and links < _MOST_LINKS:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                done = done[:-1] or [""]
                continue
            target = self._read_link("/".join([*done, name]))
            if target is None:
                done.append(name)
                continue
            links += 1
            done = [""] if target.startswith("/") else done
            todo += target.split("/")[::-1]
        return "/".join(done) or "/"

    def _read_link(self, path: str) -> str | None:
        try:
            fd = resolve.open_in_root(self.root, path, os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            return os.readlink("", dir_fd=fd) if stat.S_ISLNK(os.fstat(fd).st_mode) else None
        finally:
            os.close(fd)


def _show(place: _Place, *, with_tar: bool) -> None:
    found = place.find()
    is_link = stat.S_ISLNK(found.info.st_mode)
    told = {
        "name": place.base,
        "size": found.info.st_size,
        "mode": found.info.st_mode,
        "mtime": found.info.st_mtime_ns,
        "link_target": place.link_target() if is_link else "",
    }
    out = Output()
    out.write(json.dumps(told).encode() + b"\n")
    out.flush()
    if with_tar:
        _pack(found, os.fsencode(place.base))


def _pack(found: Visited, base: bytes) -> None:
    """The archive's names begin with what the user called it, whatever symlink led here."""
    if not found.is_directory:
        TreeTar(named=lambda _: base).write([found])
        return

    def named(path: bytes) -> bytes:
        return base.rstrip(b"/") + b"/" + path if path else base

    def everything() -> Iterator[Visited]:
        yield found._replace(path=b"")
        yield from walk(found.fd)

    TreeTar(named=named).write(everything())


def _fill(place: _Place, wanted: dict[str, Any], layers: container_view.Layers, archive: Incoming) -> None:
    try:
        fd = resolve.open_in_root(place.root, place.path, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise place.told(error) from None
    path = place.real(fd)
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        raise errors.InvalidArgument("extraction point is not a directory")
    if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
        raise errors.Forbidden(_read_only(path, [each[1] for each in wanted["places"]]))
    owner = tuple(wanted["owner"]) if wanted["owner"] else None
    pieces = bounded(archive.read, Limits(), lambda _: None)
    tar = TarStream(lambda: next(pieces, b""))
    try:
        target = Target(place.root, path.rstrip("/"), wanted["keep_kinds"], owner, layers.uids, layers.gids)
        CopyIn(target).apply(tar)
        tar.drain()
    except errors.DataLoss as error:
        # What is damaged is the client's archive, not anything of ours.
        raise errors.InvalidArgument(str(error)) from error


def _read_only(path: str, targets: list[str]) -> str:
    inside = any(path == target or path.startswith(target.rstrip("/") + "/") for target in targets)
    return "mounted volume is marked read-only" if inside else "container rootfs is marked read-only"


def _told(error: BaseException) -> tuple[str, str]:
    """(class, message) for the parent."""
    if isinstance(error, errors.BulkheadError):
        return type(error).__name__, str(error)
    if isinstance(error, OSError):
        kind = "ResourceExhausted" if error.errno in _FULL else "Internal"
        kind = "InvalidArgument" if error.errno in _ENTRY_ERRORS else kind
        return kind, f"cannot copy: {(error.strerror or str(error)).lower()}"
    return "Internal", f"cannot copy: {type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
