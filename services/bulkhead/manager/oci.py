"""A container's spec as an OCI runtime config, with Docker's defaults (oci-runtime.md 6).

Pure but for the devices of the host. The user stays a name: nsinit resolves it in the container's own files, told by
the annotation `org.bulkhead.user`.
"""

from __future__ import annotations

from collections.abc import Container as Having
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from bulkhead.errors import Internal, InvalidArgument
from bulkhead.manager import devices
from bulkhead.manager.oci_mounts import clean_target, mounts
from bulkhead.manager.oci_resources import resources, rlimits
from bulkhead.manager.seccomp_profiles import oci_profile
from bulkhead.manager.sharing import Namespaces
from bulkhead.model.container import Container, ContainerSpec, Mount
from bulkhead.model.remapping import IdRange
from bulkhead.runtime import defaults

OCI_VERSION = "1.2.0"
USER_ANNOTATION = "org.bulkhead.user"
GROUPS_ANNOTATION = "org.bulkhead.groups"
SUBPATH_ANNOTATION = "org.bulkhead.subpath:"
ROOT = "0"
INIT_TARGET = "/sbin/docker-init"
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the config needs to know beside the container's record."""

    namespaces: Namespaces
    cgroups_path: str
    hostname: str
    sources: Mapping[str, str] = field(default_factory=dict)
    engine_files: Mapping[str, str] = field(default_factory=dict)
    init_binary: str = ""
    own_volumes: Having[str] = frozenset()
    linked: Sequence[str] = ()
    shared_memory: str = ""


def config(container: Container, around: Surroundings) -> dict[str, Any]:
    """The whole `config.json`.

    Raises InvalidArgument or Internal, with Docker's texts, for what cannot be had on this host.
    """
    spec = container.spec
    return {
        "ociVersion": OCI_VERSION,
        "process": _process(container, around),
        "root": {"path": "rootfs", "readonly": spec.read_only_rootfs},
        **_names(spec, around),
        "mounts": _mounts(spec, around),
        "annotations": _annotations(spec),
        "linux": _linux(container, around),
    }


def environment(spec: ContainerSpec, hostname: str, linked: Sequence[str] = ()) -> list[str]:
    """The engine's variables and those of links, overridden or taken away by those of the container."""
    base = [DEFAULT_PATH, f"HOSTNAME={hostname}", *(["TERM=xterm"] if spec.tty else []), *linked]
    return override(base, spec.env)


def override(base: Iterable[str], over: Iterable[str]) -> list[str]:
    """`base` with the variables of `over`; an entry without `=` takes the variable away."""
    found = {entry.partition("=")[0]: entry for entry in base}
    for entry in over:
        name, separator, _ = entry.partition("=")
        if separator:
            found[name] = entry
        else:
            found.pop(name, None)
    return list(found.values())


def capability_sets(spec: ContainerSpec, *, privileged: bool) -> dict[str, list[str]]:
    """`process.capabilities`: nothing is inheritable or ambient."""
    granted = list(_capabilities(spec.cap_add, spec.cap_drop, privileged))
    return {"bounding": granted, "effective": granted, "permitted": granted}


def user_annotations(user: str, groups: Sequence[str]) -> dict[str, str]:
    """What nsinit resolves inside: "name[:group]", and further groups by name or number.

    Nobody in particular is root, looked up too: the files say of which groups it is a member.
    """
    found = {USER_ANNOTATION: user or ROOT}
    if groups:
        found[GROUPS_ANNOTATION] = ",".join(groups)
    return found


def subpath_annotations(mounts: Iterable[Mount]) -> dict[str, str]:
    """What below a volume is mounted: the launcher opens it, once, because other containers may write to the volume."""
    return {f"{SUBPATH_ANNOTATION}{clean_target(mount.target)}": mount.subpath for mount in mounts if mount.subpath}


def _process(container: Container, around: Surroundings) -> dict[str, Any]:
    spec = container.spec
    args = [container.path, *container.args]
    if around.init_binary:
        args = [INIT_TARGET, "--", *args]
    height, width = (*spec.console_size, 0, 0)[:2]
    sized = {"consoleSize": {"height": height, "width": width}} if spec.tty and height and width else {}
    return {
        "terminal": spec.tty,
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": environment(spec, around.hostname, around.linked),
        "cwd": spec.working_dir or "/",
        "capabilities": capability_sets(spec, privileged=spec.privileged),
        "rlimits": rlimits(spec.ulimits),
        "noNewPrivileges": spec.no_new_privileges,
        "oomScoreAdj": spec.oom_score_adj,
        **sized,
    }


def _names(spec: ContainerSpec, around: Surroundings) -> dict[str, str]:
    if around.namespaces.uts != "":
        return {}
    names = {"hostname": around.hostname}
    if spec.domainname:
        names["domainname"] = spec.domainname
    return names


def _mounts(spec: ContainerSpec, around: Surroundings) -> list[dict[str, Any]]:
    made = mounts(
        spec.mounts,
        around.sources,
        shm_size=spec.shm_size or defaults.DEFAULT_SHM_SIZE,
        ipc_mode=spec.ipc_mode,
        privileged=spec.privileged,
        read_only=spec.read_only_rootfs,
        engine_files=around.engine_files,
        shared_memory=around.shared_memory,
        writable_cgroups=spec.writable_cgroups,
        own_volumes=around.own_volumes,
        remapped=around.namespaces.user is not None,
    )
    if around.init_binary:
        options = ["bind", "rprivate", "ro"]
        made.append({"destination": INIT_TARGET, "type": "bind", "source": around.init_binary, "options": options})
    return made


def _annotations(spec: ContainerSpec) -> dict[str, str]:
    ours = user_annotations(spec.user, spec.group_add) | subpath_annotations(spec.mounts)
    theirs = {key: value for key, value in spec.annotations.items() if not key.startswith("org.bulkhead.")}
    return {**theirs, **ours}


def _linux(container: Container, around: Surroundings) -> dict[str, Any]:
    spec = container.spec
    _refuse_requests(spec)
    nodes, rules = _devices(spec)
    linux: dict[str, Any] = {
        "namespaces": around.namespaces.as_oci(),
        "cgroupsPath": around.cgroups_path,
        "resources": {**resources(spec.resources), "devices": rules},
        "devices": nodes,
        "sysctl": _sysctls(spec, around),
        "maskedPaths": _paths(spec, spec.masked_paths, defaults.DEFAULT_MASKED_PATHS),
        "readonlyPaths": _paths(spec, spec.readonly_paths, defaults.DEFAULT_READONLY_PATHS),
    }
    if around.namespaces.user == "" and container.remapping is not None:
        linux["uidMappings"] = _mappings(container.remapping.uids)
        linux["gidMappings"] = _mappings(container.remapping.gids)
    propagation = _rootfs_propagation(spec)
    if propagation:
        linux["rootfsPropagation"] = propagation
    seccomp = _seccomp(spec)
    if seccomp is not None:
        linux["seccomp"] = seccomp
    return linux


def _mappings(ranges: Iterable[IdRange]) -> list[dict[str, int]]:
    return [{"containerID": each.inside, "hostID": each.outside, "size": each.count} for each in ranges]


def _refuse_requests(spec: ContainerSpec) -> None:
    """`--gpus` and its like ask for devices of a driver; none is registered with this engine."""
    for request in spec.device_requests:
        wanted = " ".join(f"[{each}]" for each in request.capabilities)
        raise Internal(f'could not select device driver "{request.driver}" with capabilities: [{wanted}]')


def _devices(spec: ContainerSpec) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    asked = [devices.allow_rule(text) for text in spec.device_cgroup_rules]
    nodes, rules = devices.mapped(spec.devices)
    if spec.privileged:
        named = {node["path"] for node in nodes}
        others = [node for node in devices.of_host() if node["path"] not in named]
        return [*others, *nodes], [{"allow": True, "access": "rwm"}]
    return nodes, [*defaults.default_devices_rules(), *rules, *asked]


def _sysctls(spec: ContainerSpec, around: Surroundings) -> dict[str, str]:
    own_network = around.namespaces.network == ""
    for name in spec.sysctls:
        if name.startswith("net.") and around.namespaces.network is None:
            raise InvalidArgument(f'sysctl "{name}" not allowed in host network namespace')
    usual = defaults.REMAPPED_SYSCTLS if around.namespaces.user is not None else defaults.DEFAULT_SYSCTLS
    return {**(usual if own_network else {}), **spec.sysctls}


def _paths(spec: ContainerSpec, asked: Sequence[str] | None, usual: Iterable[str]) -> list[str]:
    if asked is not None:
        return list(asked)
    return [] if spec.privileged else list(usual)


def _rootfs_propagation(spec: ContainerSpec) -> str:
    told = {mount.propagation for mount in spec.mounts}
    if told & {"shared", "rshared"}:
        return "shared"
    return "rslave" if told & {"slave", "rslave"} else ""


def _seccomp(spec: ContainerSpec) -> dict[str, Any] | None:
    profile = spec.seccomp_profile
    if profile == "unconfined" or (spec.privileged and not profile):
        return None
    held = _capabilities(spec.cap_add, spec.cap_drop, spec.privileged)
    if not profile or profile == "builtin":
        return _default_seccomp(held)
    return oci_profile(profile, held)


@lru_cache(maxsize=64)
def _capabilities(add: tuple[str, ...], drop: tuple[str, ...], privileged: bool) -> tuple[str, ...]:
    return tuple(defaults.capabilities(add, drop, privileged))


@lru_cache(maxsize=16)
def _default_seccomp(capabilities: tuple[str, ...]) -> dict[str, Any]:
    return defaults.default_seccomp(capabilities)
