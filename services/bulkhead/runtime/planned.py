"""A launch worked out beforehand, by a process that is warm: what is left to the launcher is the kernel's part.

A shim is a fork that has hardly run, and each page it touches is copied first: reading, judging and translating a
config there costs several times what it costs in a service that does it every day. So the manager may send along what
it comes to. The config stays the contract: where nothing was worked out, or by another version, the launcher does it.

    u32 length of head | head: JSON | the encoded plan
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bulkhead.errors import InvalidArgument
from bulkhead.linux.cgroups import Cgroup, hierarchies
from bulkhead.nsexec import plan as layout
from bulkhead.nsexec.plan import Encoded, Flag, MountFlag, Plan
from bulkhead.runtime import translate, validate
from bulkhead.runtime.rootfs import OverlayRootfs

Config = Mapping[str, Any]

# Of the head; the plan has its own.
_VERSION = 1
_LENGTH = struct.Struct("<I")
# With these somebody must answer the stage, open what it takes along, or run something at its turns.
_ATTENDED = ("timeOffsets", "netDevices")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What the launcher of a container or of a further process in one has to know."""

    plan: Encoded
    terminal: bool
    warnings: tuple[str, ...] = ()
    clone_flags: int = 0
    cgroup: str = ""
    resources: Config | None = None

    def pack(self) -> bytes:
        """It as bytes."""
        head = json.dumps(
            {
                "version": [_VERSION, layout.VERSION],
                "flags": int(self.plan.flags),
                "rlimits": self.plan.rlimits,
                "terminal": self.terminal,
                "warnings": self.warnings,
                "clone_flags": self.clone_flags,
                "cgroup": self.cgroup,
                "resources": self.resources,
            }
        ).encode()
        return _LENGTH.pack(len(head)) + head + self.plan.data


def unpack(packed: bytes) -> Planned | None:
    """What `Planned.pack` made; None for nothing, and for what another version made. Else InvalidArgument."""
    if not packed:
        return None
    try:
        (length,) = _LENGTH.unpack_from(packed)
        begins = _LENGTH.size + length
        head = _read_head(packed[_LENGTH.size : begins])
        if head is None:
            return None
        return Planned(
            plan=Encoded(data=packed[begins:], flags=head.plan.flags, rlimits=head.plan.rlimits),
            terminal=head.terminal,
            warnings=head.warnings,
            clone_flags=head.clone_flags,
            cgroup=head.cgroup,
            resources=head.resources,
        )
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise InvalidArgument(f"cannot read the planned launch: {error}") from error


@functools.lru_cache(maxsize=1)
def _read_head(text: bytes) -> Planned | None:
    """All but the plan, None of another version. A container's further processes have the same, as a rule."""
    head = json.loads(text)
    if head["version"] != [_VERSION, layout.VERSION]:
        return None
    limits = tuple((number, soft, hard) for number, soft, hard in head["rlimits"])
    return Planned(
        plan=Encoded(data=b"", flags=int(head["flags"]), rlimits=limits),
        terminal=head["terminal"],
        warnings=tuple(head["warnings"]),
        clone_flags=head["clone_flags"],
        cgroup=head["cgroup"],
        resources=head["resources"],
    )


def with_arguments(packed: bytes, arguments: Sequence[str]) -> bytes:
    """What `further_process` comes to, packed, for another command. Raises InvalidArgument."""
    try:
        (length,) = _LENGTH.unpack_from(packed)
        head = _LENGTH.size + length
        return packed[:head] + layout.with_arguments(packed[head:], arguments)
    except (struct.error, ValueError) as error:
        raise InvalidArgument(f"cannot plan the launch: {error}") from error


def container(container_id: str, config: Config, rootfs: OverlayRootfs | None) -> Planned | None:
    """The launch of a new container; None when its launcher must see the config. Raises what `launch.create` raises."""
    config = translate.resolved(config, "")
    validate.container(container_id, config, rootfs)
    linux: Config = config.get("linux") or {}
    if not _unattended(config) or linux.get("uidMappings") or linux.get("gidMappings"):
        return None
    cgroup = Cgroup(linux.get("cgroupsPath") or f"/{container_id}")
    plan = translate.container_plan(config, rootfs, cgroup, hierarchies())
    if plan.unshare or plan.flags & Flag.ROOT_GIVEN or any(mount.flags & MountFlag.GIVEN for mount in plan.mounts):
        return None
    return Planned(
        plan=_encoded(plan),
        terminal=bool(config["process"].get("terminal")),
        warnings=(*translate.warnings(config["process"]), *translate.unknown_calls(config)),
        clone_flags=translate.clone_flags(config),
        cgroup=cgroup.path,
        resources=linux.get("resources") or {},
    )


def further_process(config: Config, process: Config) -> Planned | None:
    """The launch of a further process; None when its launcher must see the config. Raises what `exec_` raises."""
    config = translate.resolved(config, "")
    merged = translate.merged_process(config, process)
    validate.further(merged)
    if not _unattended(config) or translate.first_affinity(merged):
        return None
    plan = translate.exec_plan(config, merged)
    return Planned(plan=_encoded(plan), terminal=bool(merged.get("terminal")), warnings=translate.warnings(merged))


def _unattended(config: Config) -> bool:
    linux: Config = config.get("linux") or {}
    attended = config.get("hooks") or any(linux.get(key) for key in _ATTENDED)
    listens = (linux.get("seccomp") or {}).get("listenerPath")
    return not (attended or listens or translate.joined_namespaces(config))


def _encoded(plan: Plan) -> Encoded:
    try:
        return Encoded(data=plan.encode(), flags=plan.flags, rlimits=plan.rlimits)
    except ValueError as error:
        raise InvalidArgument(f"cannot create the container: {error}") from error
