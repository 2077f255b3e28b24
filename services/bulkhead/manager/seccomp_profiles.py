"""Docker's seccomp profile files as OCI `linux.seccomp` objects.

Docker's format knows more than OCI's: rules that hold only for a capability, an architecture or a kernel, and a map of
architectures. Both are settled here for one container on this machine. A profile that is OCI's already passes through.
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Collection
from typing import Any

import msgspec

from bulkhead.errors import Internal

# uname's machine: (Go's name, which `arches` speaks of; seccomp's name)
_MACHINES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "i686": ("x86", "SCMP_ARCH_X86"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "ppc64": ("ppc64", "SCMP_ARCH_PPC64"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "loongarch64": ("loong64", "SCMP_ARCH_LOONGARCH64"),
    "mips64": ("mips64", "SCMP_ARCH_MIPS64") if sys.byteorder == "big" else ("mipsel64", "SCMP_ARCH_MIPSEL64"),
}


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
    defaultAction: str = ""
    defaultErrnoRet: int | None = None
    architectures: list[str] | None = None
    archMap: list[_Architecture] | None = None
    flags: list[str] | None = None
    listenerPath: str = ""
    listenerMetadata: str = ""
    syscalls: list[_Rule] | None = None


def oci_profile(text: str, capabilities: Collection[str]) -> dict[str, Any] | None:
    """The profile `text` for a container with these capabilities; None for one that says nothing, which is no
    confinement. Raises Internal with Docker's text."""
    try:
        profile = msgspec.json.decode(text, type=_Profile)
    except msgspec.MsgspecError as error:
        raise Internal(f"Decoding seccomp profile failed: {error}") from error
    if not profile.defaultAction and not profile.syscalls:
        return None
    if profile.archMap and profile.architectures:
        raise Internal(_EITHER.format("architectures", "archMap"))
    found: dict[str, Any] = {
        "defaultAction": profile.defaultAction,
        "architectures": profile.architectures or _architectures(profile.archMap or []),
        "syscalls": [_rule(rule) for rule in profile.syscalls or [] if _applies(rule, capabilities)],
    }
    if profile.defaultErrnoRet is not None:
        found["defaultErrnoRet"] = profile.defaultErrnoRet
    if profile.flags is not None:
        found["flags"] = profile.flags
    for key in ("listenerPath", "listenerMetadata"):
        if value := getattr(profile, key):
            found[key] = value
    return found


_EITHER = "'{0}' and '{1}' were specified in the seccomp profile, use either '{0}' or '{1}'"


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
    if rule.name and rule.names:
        raise Internal(_EITHER.format("name", "names"))
    found: dict[str, Any] = {"names": [rule.name] if rule.name else rule.names, "action": rule.action}
    if rule.errnoRet is not None:
        found["errnoRet"] = rule.errnoRet
    if rule.args:
        found["args"] = [msgspec.to_builtins(argument) for argument in rule.args]
    return found


def _at_least(version: str) -> bool:
    """Only the first two numbers count, as with Docker."""
    wanted, present = _numbers(version), _numbers(platform.release())
    if not wanted:
        raise Internal(f"invalid kernel version: {version}")
    return present >= wanted


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"([0-9]+)\.([0-9]+)", version)
    return (int(match[1]), int(match[2])) if match else ()
