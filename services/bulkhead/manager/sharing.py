"""Which namespaces a container gets: its own, the host's, or another container's.

A namespace of another container is pinned by a descriptor of ours, opened before and checked after its process was
found to be the one in the record: a pid alone could be somebody else's by now.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from bulkhead.errors import Conflict, InvalidArgument
from bulkhead.linux import process
from bulkhead.linux.cgroups import hierarchies
from bulkhead.manager.index import Index
from bulkhead.model.container import Container, ContainerSpec
from bulkhead.model.lifecycle import Phase

_OF_CONTAINER = "container:"
_SHAREABLE = "shareable"
_NOT_RUNNING = {"net": "cannot join network of a non running container: {}"}
_NOT_RUNNING_OTHER = "container {} is not running"
# Beside "host" and, where it makes sense, another container's.
_MODES = {
    "net": frozenset(("",)),
    "pid": frozenset(("",)),
    "ipc": frozenset(("", "private", "none", _SHAREABLE)),
    "uts": frozenset(("",)),
    "cgroup": frozenset(("", "private")),
}


class Attachment(Enum):
    """How the container reaches networks."""

    BRIDGE = "bridge"
    NONE = "none"
    HOST = "host"
    SHARED = "container"


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespaces:
    """Of each kind: an empty path makes a new one, None takes the host's, any other path is joined."""

    network: str | None = ""
    pid: str | None = ""
    ipc: str | None = ""
    uts: str | None = ""
    cgroup: str | None = ""
    user: str | None = None

    def as_oci(self) -> list[dict[str, str]]:
        """`linux.namespaces` of an OCI config; the mount namespace is always new."""
        kinds = {"network": self.network, "pid": self.pid, "ipc": self.ipc, "uts": self.uts, "cgroup": self.cgroup}
        kinds["user"] = self.user
        chosen = [
            {"type": kind, "path": path} if path else {"type": kind} for kind, path in kinds.items() if path is not None
        ]
        return [*chosen, {"type": "mount"}]


def attachment(spec: ContainerSpec) -> Attachment:
    """How `spec` wants to be networked; whether the networks it names exist is not looked at."""
    mode = spec.network_mode
    if spec.network_disabled or mode == "none":
        return Attachment.NONE
    if mode == "host":
        return Attachment.HOST
    if mode.startswith(_OF_CONTAINER):
        return Attachment.SHARED
    return Attachment.BRIDGE


def may_have_links(container: Container) -> bool:
    """Whether it has a network of its own, and is on more, or less, than the one that leads nowhere: containers are
    taken off that one, and put on it, whatever mode they were created with."""
    spec = container.spec
    if spec.network_disabled or attachment(spec) in (Attachment.HOST, Attachment.SHARED):
        return False
    return not container.endpoints or any(each.network_name != "none" for each in container.endpoints)


def network_owner(spec: ContainerSpec, index: Index) -> Container:
    """The container whose network `spec` shares, be it through others that share it. Raises NotFound."""
    seen: set[str] = set()
    while True:
        owner = index.find(spec.network_mode.removeprefix(_OF_CONTAINER))
        # Names of containers that come later may lead round in a circle, in which none can ever run.
        if attachment(owner.spec) is not Attachment.SHARED or owner.id in seen:
            return owner
        seen.add(owner.id)
        spec = owner.spec


@contextlib.contextmanager
def namespaces(container: Container, index: Index) -> Iterator[Namespaces]:
    """The namespaces of a container to be started; paths are good while entered. Whoever is remapped and joins one of
    another's, joins that one's user namespace too: it would have no rights there.

    Raises NotFound for an unknown container, Conflict for one that is not running, InvalidArgument for a mode that
    does not exist.
    """
    spec = container.spec
    with contextlib.ExitStack() as opened:

        def of(kind: str, mode: str) -> str | None:
            if mode == "host":
                return None
            if mode.startswith(_OF_CONTAINER):
                owner = index.find(mode.removeprefix(_OF_CONTAINER))
                if kind == "ipc":
                    _check_shareable(owner)
                return opened.enter_context(pinned(owner, kind))
            if mode not in _MODES[kind]:
                raise InvalidArgument(f"Invalid {kind.upper()} mode: {mode}")
            return ""

        def users() -> str | None:
            if container.remapping is None:
                return None
            owners = _owners(spec, index)
            shared = next((owner for owner in owners if owner.remapping is not None), None)
            return "" if shared is None else opened.enter_context(pinned(shared, "user"))

        network = "" if attachment(spec) in (Attachment.BRIDGE, Attachment.NONE) else of("net", spec.network_mode)
        yield Namespaces(
            network=network,
            pid=of("pid", spec.pid_mode),
            ipc=of("ipc", spec.ipc_mode),
            uts=of("uts", spec.uts_mode),
            cgroup=of("cgroup", spec.cgroupns_mode or default_cgroupns()),
            user=users(),
        )


def _owners(spec: ContainerSpec, index: Index) -> list[Container]:
    """The containers whose namespaces `spec` joins."""
    modes = (spec.network_mode, spec.ipc_mode, spec.pid_mode)
    return [index.find(mode.removeprefix(_OF_CONTAINER)) for mode in modes if mode.startswith(_OF_CONTAINER)]


def default_cgroupns() -> str:
    """Docker's default, by the host's version of cgroups: seen from v1 a namespace of one's own hides nothing."""
    return "private" if hierarchies().is_v2 else "host"


def shares_memory(spec: ContainerSpec) -> bool:
    """Whether other containers may have its IPC namespace and /dev/shm."""
    return spec.ipc_mode == _SHAREABLE


def ipc_owner(spec: ContainerSpec) -> str | None:
    """The id of the container whose IPC namespace `spec` joins."""
    return spec.ipc_mode.removeprefix(_OF_CONTAINER) if spec.ipc_mode.startswith(_OF_CONTAINER) else None


def _check_shareable(owner: Container) -> None:
    cannot = f"can't join IPC of container {owner.id}: "
    if not owner.phase.alive:
        raise Conflict(f"{cannot}container {owner.id} is not running")
    if not shares_memory(owner.spec):
        raise Conflict(f"{cannot}non-shareable IPC (hint: use IpcMode:shareable for the donor container)")


@contextlib.contextmanager
def pinned(owner: Container, kind: str) -> Iterator[str]:
    """The path of a live container's namespace, by its name in /proc/<pid>/ns. Raises Conflict."""
    if owner.phase is Phase.RESTARTING:
        raise Conflict(f"Container {owner.id} is restarting, wait until the container is running")
    if not owner.phase.alive:
        raise Conflict(_NOT_RUNNING.get(kind, _NOT_RUNNING_OTHER).format(owner.id))
    try:
        descriptor = os.open(f"/proc/{owner.pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Conflict(f"cannot join {kind} namespace of container {owner.id}: {error.strerror}") from error
    try:
        if not _is_still(owner):
            raise Conflict(_NOT_RUNNING.get(kind, _NOT_RUNNING_OTHER).format(owner.id))
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _is_still(owner: Container) -> bool:
    try:
        return process.start_time(owner.pid) == owner.pid_start_time
    except OSError:
        return False


def check_modes(spec: ContainerSpec) -> None:
    """InvalidArgument for combinations that can never start."""
    if spec.network_mode.startswith(_OF_CONTAINER) and spec.ports:
        raise InvalidArgument("conflicting options: port publishing and the container type network mode")
    if spec.userns_mode not in ("", "host"):
        raise InvalidArgument(f"invalid user namespace mode: {spec.userns_mode}")
