"""What the command knows about its containers: `<root>/<id>/state.json`, and what the kernel says of them.

The directory is the reservation of the id, and locked (flock) by who changes the container. The record is
replaced as a whole; the state is never written down but derived, so that whatever was killed, and whenever,
the answer is true: the process is gone (or another has its pid) -> stopped; its FIFO waits for the start ->
created; its cgroup is frozen -> paused; otherwise running.
"""
# Plain strings: pathlib's import is a noticeable part of a command that lives for milliseconds.
# ruff: noqa: PTH115, PTH102, PTH103, PTH106, PTH108, PTH110

from __future__ import annotations

import contextlib
import enum
import fcntl
import json
import os
import select
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bulkhead.errors import Conflict, Internal, InvalidArgument, NotFound
from bulkhead.linux import atomicfile, pidfd
from bulkhead.linux.cgroups import Cgroup
from bulkhead.runtime.names import is_container_id

_LIMIT = 64 << 20
_STAGE = "/memfd:bulkhead-nsinit "  # as /proc/<pid>/exe calls what nsexec/csrc/spawn.c starts


class Status(enum.Enum):
    """The specification's words, and `paused`."""

    CREATING = "creating"
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One container. `pid` is 0 until there is a process; `created` is RFC 3339, `cgroup` as Cgroup.paths, which it
    shares (`shared`) with who was in it before."""

    id: str
    oci_version: str
    bundle: str
    rootfs: str
    created: str
    cgroup: Mapping[str, str]
    owner: int
    pid: int = 0
    start_time: int = 0
    systemd: bool = False
    shared: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)

    def launched(self, pid: int, start_time: int, cgroup: Mapping[str, str]) -> Record:
        return replace(self, pid=pid, start_time=start_time, cgroup=cgroup)

    def open_process(self) -> int | None:
        """A pidfd of the first process, the caller's to close; None when it has ended, reaped or not."""
        if not self.pid:
            return None
        try:
            fd = pidfd.open_pid(self.pid)
        except OSError:
            return None
        try:
            if pidfd.start_time(self.pid) == self.start_time and not _has_ended(fd):
                return fd
        except ProcessLookupError:
            pass
        os.close(fd)
        return None

    def group(self) -> Cgroup:
        if not self.systemd:
            return Cgroup.at(self.cgroup)
        from bulkhead.linux.cgroup_systemd import ScopeGroup

        return ScopeGroup.found(self.cgroup, self.id)


def _has_ended(fd: int) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(0))


def _has_executed(pid: int) -> bool:
    """Whether a process is beyond the stage: who started it may have been killed before it removed the FIFO."""
    try:
        return not os.readlink(f"/proc/{pid}/exe").startswith(_STAGE)
    except OSError:  # only the stage hides this from whoever created it
        return False


class Container:
    """One container's directory."""

    __slots__ = ("directory", "id")

    def __init__(self, root: str, container_id: str) -> None:
        """InvalidArgument for what is no id, and could lead out of the root."""
        if not container_id:
            raise InvalidArgument("container id cannot be empty")
        if not is_container_id(container_id):
            raise InvalidArgument("invalid container ID format")
        self.id = container_id
        self.directory = f"{root}/{container_id}"

    @property
    def fifo(self) -> str:
        """Where a created process waits to be started."""
        return f"{self.directory}/exec.fifo"

    def reserve(self) -> None:
        """Take the id. Conflict when it is taken."""
        os.makedirs(self.directory.rpartition("/")[0], 0o700, exist_ok=True)
        try:
            os.mkdir(self.directory, 0o711)
        except FileExistsError:
            raise Conflict("container with id exists") from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Alone with the container; waits for its turn. NotFound when it is gone by then."""
        try:
            fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise _absent() from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink == 0:
                raise _absent()
            yield
        finally:
            os.close(fd)

    # ---- content ----

    def load(self) -> Record:
        """NotFound when there is none, Internal when it cannot be read."""
        try:
            content = atomicfile.read(f"{self.directory}/state.json", _LIMIT)
        except (FileNotFoundError, NotADirectoryError):
            raise _absent() from None
        try:
            return Record(**json.loads(content))
        except (ValueError, TypeError) as error:
            raise Internal(f"cannot read the state of container {self.id}: {error}") from error

    def save(self, record: Record) -> None:
        self._write("state.json", json.dumps(asdict(record)).encode())

    def load_config(self) -> dict[str, Any]:
        """The config that the container was made from, limits as they were last updated."""
        try:
            config: dict[str, Any] = json.loads(atomicfile.read(f"{self.directory}/config.json", _LIMIT))
        except FileNotFoundError:
            raise _absent() from None
        except ValueError as error:
            raise Internal(f"cannot read the config of container {self.id}: {error}") from error
        return config

    def save_config(self, content: bytes) -> None:
        self._write("config.json", content)

    def _write(self, name: str, content: bytes) -> None:
        # What power loss takes from a state directory, it has taken from the container before.
        atomicfile.write(f"{self.directory}/{name}", content, durable=False)

    def forget(self) -> None:
        """Remove the directory: the id is free again."""
        with contextlib.suppress(FileNotFoundError):
            with os.scandir(self.directory) as entries:
                for entry in entries:
                    _unlink_all(entry)
            os.rmdir(self.directory)

    # ---- what the kernel says ----

    def status(self, record: Record) -> Status:
        if not record.pid:
            return Status.CREATING if self._is_locked() else Status.STOPPED
        fd = record.open_process()
        if fd is None:
            return Status.STOPPED
        os.close(fd)
        if os.path.exists(self.fifo) and not _has_executed(record.pid):
            return Status.CREATED
        return Status.PAUSED if record.group().is_frozen() else Status.RUNNING

    def _is_locked(self) -> bool:
        """Whether somebody is at it: a record without a process is a creation that goes on, or one that died."""
        try:
            fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False


def _absent() -> NotFound:
    return NotFound("container does not exist")


def filter_cache(root: str) -> str:
    """Where compiled seccomp filters are kept; its name is no container's."""
    return f"{root}/:filters"


def container_ids(root: str) -> list[str]:
    """Every id with a directory, sorted."""
    try:
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if is_container_id(entry.name) and entry.is_dir())
    except FileNotFoundError:
        return []


def described(record: Record, status: Status) -> dict[str, Any]:
    """The specification's state object, which hooks read and `state` prints."""
    alive = status is not Status.STOPPED
    found: dict[str, Any] = {
        "ociVersion": record.oci_version,
        "id": record.id,
        "pid": record.pid if alive else 0,
        "status": status.value,
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
    }
    return found | ({"annotations": dict(record.annotations)} if record.annotations else {}) | {"owner": ""}


def _unlink_all(entry: os.DirEntry[str]) -> None:
    """A file, or a directory of files."""
    if not entry.is_dir(follow_symlinks=False):
        os.unlink(entry.path)
        return
    with os.scandir(entry.path) as files:
        for file in files:
            os.unlink(file.path)
    os.rmdir(entry.path)
