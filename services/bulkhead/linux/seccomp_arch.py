"""Architectures as seccomp sees them: their audit token, their words, and the numbers of their system calls.

The x86 family's numbers are our own table (syscalls.py). Others come from libseccomp's, through its C ABI, where it is
installed; calls since Linux 5.1 have one number everywhere, which libseccomp's version does not limit.
"""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import dataclass
from typing import Any

from bulkhead.linux import syscalls

_LITTLE, _WIDE, _N32 = 0x40000000, 0x80000000, 0x20000000  # of AUDIT_ARCH_*: beside the ELF machine number


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """`token` is libseccomp's (and the audit one, except for x32); `base` is added to the common call numbers."""

    name: str
    token: int
    base: int = 0

    @property
    def audit(self) -> int:
        return AUDIT_X86_64 if self.name == "x32" else self.token

    @property
    def wide(self) -> bool:
        """Whether arguments have 64 bits. x32 has them although its pointers have not."""
        return bool(self.token & _WIDE) or self.name == "x32"

    @property
    def big_endian(self) -> bool:
        return not self.token & _LITTLE


AUDIT_X86_64 = 62 | _WIDE | _LITTLE
AUDIT_I386 = 3 | _LITTLE


def _table(*rows: tuple[str, int, int]) -> dict[str, Architecture]:
    return {name: Architecture(name=name, token=token, base=base) for name, token, base in rows}


# By the name that follows SCMP_ARCH_, in lower case.
ARCHITECTURES = _table(
    ("x86_64", AUDIT_X86_64, 0),
    ("x86", AUDIT_I386, 0),
    ("x32", 62 | _LITTLE, 0),
    ("arm", 40 | _LITTLE, 0),
    ("aarch64", 183 | _WIDE | _LITTLE, 0),
    ("mips", 8, 4000),
    ("mipsel", 8 | _LITTLE, 4000),
    ("mips64", 8 | _WIDE, 5000),
    ("mipsel64", 8 | _WIDE | _LITTLE, 5000),
    ("mips64n32", 8 | _WIDE | _N32, 6000),
    ("mipsel64n32", 8 | _WIDE | _N32 | _LITTLE, 6000),
    ("ppc", 20, 0),
    ("ppc64", 21 | _WIDE, 0),
    ("ppc64le", 21 | _WIDE | _LITTLE, 0),
    ("s390", 22, 0),
    ("s390x", 22 | _WIDE, 0),
    ("parisc", 15, 0),
    ("parisc64", 15 | _WIDE, 0),
    ("riscv64", 243 | _WIDE | _LITTLE, 0),
    ("loongarch64", 258 | _WIDE | _LITTLE, 0),
    ("m68k", 4, 0),
    ("sh", 42 | _LITTLE, 0),
    ("sheb", 42, 0),
)

# What a kernel runs beside its own architecture, which comes first.
_FAMILIES = {
    "x86_64": ("x86_64", "x86", "x32"),
    "x86": ("x86",),
    "aarch64": ("aarch64", "arm"),
    "arm": ("arm",),
    "mips64": ("mips64", "mips", "mips64n32"),
    "mipsel64": ("mipsel64", "mipsel", "mipsel64n32"),
    "ppc64": ("ppc64", "ppc"),
    "s390x": ("s390x", "s390"),
    "parisc64": ("parisc64", "parisc"),
}


def family(machine: str) -> tuple[Architecture, ...]:
    """What runs on a machine that uname(2) calls so, its own architecture first; empty for one that is unknown."""
    name = _spelled(machine)
    return tuple(ARCHITECTURES[each] for each in _FAMILIES.get(name, (name,)) if each in ARCHITECTURES)


def _spelled(machine: str) -> str:
    if machine.startswith("arm"):  # armv6l, armv7l, armv8l
        return "arm"
    if machine in ("mips", "mips64") and sys.byteorder == "little":
        return machine.replace("mips", "mipsel")
    return {"i386": "x86", "i486": "x86", "i586": "x86", "i686": "x86"}.get(machine, machine)


def native() -> tuple[Architecture, ...]:
    return family(os.uname().machine)


# ---- numbers ----

_OWN = {"x86_64": "x86_64", "x86": "i386", "x32": "x32"}
_COMMON = 424  # from pidfd_send_signal on, new calls have one number on all architectures
_X86_ONLY = frozenset(("uretprobe", "uprobe"))

# Calls of other architectures alone: known names that are no mistake in a profile for several.
_FOREIGN = frozenset(
    (
        *("arm_fadvise64_64", "arm_sync_file_range", "breakpoint", "cachectl", "cacheflush", "get_tls"),
        *("pciconfig_iobase", "pciconfig_read", "pciconfig_write", "recv", "riscv_flush_icache", "riscv_hwprobe"),
        *("rtas", "s390_guarded_storage", "s390_pci_mmio_read", "s390_pci_mmio_write", "s390_runtime_instr"),
        *("s390_sthyi", "send", "set_tls", "spu_create", "spu_run", "subpage_prot", "swapcontext", "switch_endian"),
        *("sync_file_range2", "sys_debug_setcontext", "sysmips", "timerfd", "usr26", "usr32"),
    )
)


def number(architecture: Architecture, name: str) -> int | None:
    """The call's number (x32's without its bit), or None where the architecture has no such call."""
    if own := _OWN.get(architecture.name):
        return syscalls.numbers(own).get(name)
    common = syscalls.numbers("x86_64").get(name, 0)
    if common >= _COMMON and name not in _X86_ONLY:
        return common + architecture.base
    return _table_of(_LIKE.get(architecture.name, architecture)).get(name)


# libseccomp 2.5 does not know it; both took asm-generic's numbers as they are.
_LIKE = {"loongarch64": ARCHITECTURES["aarch64"]}


def is_known(name: str) -> bool:
    """Whether any architecture has a call of this name."""
    if name in _FOREIGN or any(name in syscalls.numbers(own) for own in _OWN.values()):
        return True
    library = _library()
    return library is not None and library.seccomp_syscall_resolve_name(name.encode()) != -1


def available() -> bool:
    """Whether other architectures than the x86 family's can be resolved."""
    return _library() is not None


@functools.cache
def _library() -> Any:
    import ctypes  # half a megabyte, for other architectures alone

    try:
        return ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return None


@functools.cache
def _table_of(architecture: Architecture) -> dict[str, int]:
    """Asked by number: asked by name, libseccomp answers with numbers of its own for calls that have two ways."""
    import ctypes

    library, libc = _library(), ctypes.CDLL(None)
    if library is None:
        return {}
    resolve = library.seccomp_syscall_resolve_num_arch
    resolve.restype = ctypes.c_void_p
    libc.free.argtypes = (ctypes.c_void_p,)
    found = dict[str, int]()
    for each in (*range(architecture.base, architecture.base + 600), *_PRIVATE):
        if text := resolve(ctypes.c_uint32(architecture.token), each):
            found[ctypes.string_at(text).decode()] = each
            libc.free(text)
    return found


_PRIVATE = range(0x0F0001, 0x0F0007)  # arm's own, beside the table
