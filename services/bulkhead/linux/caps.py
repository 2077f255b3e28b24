"""Capability names and numbers (capabilities(7), linux/capability.h)."""

from __future__ import annotations

from collections.abc import Iterable

NAMES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
)
ALL = tuple(f"CAP_{name}" for name in NAMES)
_NUMBERS = {name: number for number, name in enumerate(ALL)}


def known(name: str) -> bool:
    """Whether this is a capability's full name (CAP_...)."""
    return name in _NUMBERS


def mask(names: Iterable[str]) -> int:
    """Bit mask of these full names; KeyError for one that does not exist."""
    value = 0
    for name in names:
        value |= 1 << _NUMBERS[name]
    return value


def names(value: int) -> tuple[str, ...]:
    """Full names of a bit mask, in numerical order; bits without a name are left out."""
    return tuple(name for name, number in _NUMBERS.items() if value >> number & 1)
