"""Docker's seccomp profile files as OCI `linux.seccomp` objects.

Docker's format knows more than OCI's: rules that hold only for a capability, an architecture or a kernel, and a map of
architectures. Both are settled here for one container on this machine. A profile that is OCI's already passes through.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Collection
from typing import Any

import msgspec

from bulkhead.errors import Internal

_MACHINES = {"x86_64": ("amd64", "SCMP_ARCH_X86_64"), "aarch64": ("arm64", "SCMP_ARCH_AARCH64")}


class _Argument(msgspec.Struct, omit_defaults=True):
    index: int
    value: int
    op: str
    valueTwo: int = 0


class _Condition(msgspec.Struct):
    caps: list[str] = []
    arches: list[str] = []
    minKernel: str = ""

    def holds(self, capabilities: Collection[str]) -> list[bool]:
        """What each part of the condition says; empty parts say nothing."""
        kernel = [_at_least(self.minKernel)] if self.minKernel else []
        arches = [_MACHINES.get(platform.machine(), ("", ""))[0] in self.arches] if self.arches else []
        return [*(name in capabilities for name in self.caps), *arches, *kernel]


class _Rule(msgspec.Struct):
    action: str
    name: str = ""
    names: list[str] = []
    errnoRet: int | None = None
    args: list[_Argument] | None = None
    includes: _Condition | None = None
    excludes: _Condition | None = None


class _Architecture(msgspec.Struct):
    architecture: str
    subArchitectures: list[str] | None = None


class _Profile(msgspec.Struct):
    defaultAction: str
    defaultErrnoRet: int | None = None
    architectures: list[str] | None = None
    archMap: list[_Architecture] | None = None
    flags: list[str] | None = None
    listenerPath: str = ""
    syscalls: list[_Rule] | None = None


def oci_profile(text: str, capabilities: Collection[str]) -> dict[str, Any]:
    """The profile `text` for a container with these capabilities. Raises Internal with Docker's text."""
    try:
        profile = msgspec.json.decode(text, type=_Profile)
    except msgspec.MsgspecError as error:
        raise Internal(f"Decoding seccomp profile failed: {error}") from error
    if profile.archMap and profile.architectures:
        raise Internal("both 'architectures' and 'archMap' were specified in the seccomp profile, use either of them")
    if profile.listenerPath:
        raise Internal("cannot use the seccomp profile: listenerPath is not supported")
    found: dict[str, Any] = {
        "defaultAction": profile.defaultAction,
        "architectures": profile.architectures or _architectures(profile.archMap or []),
        "syscalls": [_rule(rule) for rule in profile.syscalls or [] if _applies(rule, capabilities)],
    }
    if profile.defaultErrnoRet is not None:
        found["defaultErrnoRet"] = profile.defaultErrnoRet
    if profile.flags:
        found["flags"] = profile.flags
    return found


def _architectures(told: list[_Architecture]) -> list[str]:
    native = _MACHINES.get(platform.machine(), ("", ""))[1]
    for each in told:
        if each.architecture == native:
            return [each.architecture, *(each.subArchitectures or [])]
    return []


def _applies(rule: _Rule, capabilities: Collection[str]) -> bool:
    included = rule.includes is None or all(rule.includes.holds(capabilities))
    excluded = rule.excludes is not None and any(rule.excludes.holds(capabilities))
    return included and not excluded


def _rule(rule: _Rule) -> dict[str, Any]:
    if bool(rule.name) == bool(rule.names):
        raise Internal("'name' and 'names' were specified in the seccomp profile, use either 'name' or 'names'")
    found: dict[str, Any] = {"names": rule.names or [rule.name], "action": rule.action}
    if rule.errnoRet is not None:
        found["errnoRet"] = rule.errnoRet
    if rule.args:
        found["args"] = [msgspec.to_builtins(argument) for argument in rule.args]
    return found


def _at_least(version: str) -> bool:
    wanted, present = _numbers(version), _numbers(platform.release())
    return present >= wanted


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"([0-9]+)\.([0-9]+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)
