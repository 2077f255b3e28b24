"""Capabilities and security options of a create request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bulkhead.errors import InvalidArgument

# capabilities(7), Linux 6.18
_NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
CAPABILITIES = frozenset(f"CAP_{name}" for name in _NAMES.split(" "))
ALL = "ALL"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityOptions:
    no_new_privileges: bool = False
    seccomp_profile: str = ""
    writable_cgroups: bool = False


def parse_capabilities(names: Iterable[str], field: str) -> tuple[str, ...]:
    """Names as `CAP_X` or `ALL`; raises InvalidArgument for one the kernel does not know."""
    return tuple(_capability(name, field) for name in names)


def _capability(name: str, field: str) -> str:
    upper = name.upper()
    if upper == ALL:
        return ALL
    full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    if full not in CAPABILITIES:
        raise InvalidArgument(f'invalid {field}: unknown capability: "{full}"')
    return full


def parse_security_options(options: Iterable[str]) -> SecurityOptions:
    """`--security-opt`: name, or name=value (older clients: name:value)."""
    no_new_privileges, seccomp, writable_cgroups = False, "", False
    for option in options:
        if option == "no-new-privileges":
            no_new_privileges = True
            continue
        separator = "=" if "=" in option else ":"
        name, found, value = option.partition(separator)
        if not found:
            raise InvalidArgument(f'invalid --security-opt 1: "{option}"')
        if name not in _KNOWN:
            raise InvalidArgument(f'invalid --security-opt 2: "{option}"')
        if name == "no-new-privileges":
            no_new_privileges = _boolean(value, option)
        elif name == "seccomp":
            seccomp = "" if value == "builtin" else value
        elif name == "writable-cgroups":
            writable_cgroups = _boolean(value, option)
    return SecurityOptions(
        no_new_privileges=no_new_privileges, seccomp_profile=seccomp, writable_cgroups=writable_cgroups
    )


# Labels and AppArmor profiles are accepted as on a host without SELinux and AppArmor, where Docker ignores them.
_KNOWN = frozenset(("no-new-privileges", "seccomp", "label", "apparmor", "writable-cgroups"))


def _boolean(value: str, option: str) -> bool:
    if value.lower() in ("1", "t", "true"):
        return True
    if value.lower() in ("0", "f", "false"):
        return False
    raise InvalidArgument(f'invalid --security-opt 2: "{option}"')
