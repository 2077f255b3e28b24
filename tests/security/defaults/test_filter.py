"""Our default filter, number by number, against Docker's published profile as libseccomp compiles it (H05, H06)."""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bulkhead.linux import seccomp, syscalls
from bulkhead.runtime import defaults

PUBLISHED = Path("/work/shared/specs/seccomp/docker-default.json")
ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026
X86_64, I386, X32_BIT = 0xC000003E, 0x40000003, 0x40000000
LIB_ARCH = {"x86_64": 0xC000003E, "i386": 0x40000003, "x32": 0x4000003E}
LIB_OPS = {"SCMP_CMP_LT": 2, "SCMP_CMP_EQ": 4, "SCMP_CMP_GT": 6, "SCMP_CMP_MASKED_EQ": 7}
CAPABILITIES = [(), ("CAP_SYS_ADMIN",), ("CAP_SYS_PTRACE", "CAP_SYS_CHROOT"), ("CAP_BPF", "CAP_PERFMON", "CAP_SYSLOG")]

pytestmark = pytest.mark.skipif(not seccomp.supported(), reason="no system call table for this machine")


class Comparison(ctypes.Structure):
    _fields_ = (("index", ctypes.c_uint), ("op", ctypes.c_int), ("one", ctypes.c_uint64), ("two", ctypes.c_uint64))


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    name = ctypes.util.find_library("seccomp")
    if name is None:
        pytest.skip("libseccomp is not installed")
    found = ctypes.CDLL(name)
    found.seccomp_init.restype = ctypes.c_void_p
    found.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    return found


def published_rules(capabilities: Iterable[str]) -> list[dict[str, Any]]:
    """The rules of the published file that hold on amd64 with these capabilities; read here a second time."""
    if not PUBLISHED.exists():
        pytest.skip("the published profile is not on this machine")
    held, found = set(capabilities), []
    for rule in json.loads(PUBLISHED.read_text())["syscalls"]:
        needs, bars = rule.get("includes") or {}, rule.get("excludes") or {}
        fits = not needs.get("arches") or "amd64" in needs["arches"]
        fits = fits and set(needs.get("caps") or ()) <= held and not held & set(bars.get("caps") or ())
        if fits and "amd64" not in (bars.get("arches") or ()):
            found.append(rule)
    return found


def compiled(library: ctypes.CDLL, rules: Sequence[dict[str, Any]]) -> bytes:
    """By libseccomp, for amd64, x86 and x32."""
    context = ctypes.c_void_p(library.seccomp_init(EPERM))
    for arch in ("i386", "x32"):
        assert library.seccomp_arch_add(context, LIB_ARCH[arch]) == 0
    for rule in rules:
        action = ALLOW if rule["action"] == "SCMP_ACT_ALLOW" else 0x00050000 | rule["errnoRet"]
        told = [
            Comparison(a["index"], LIB_OPS[a["op"]], a["value"], a.get("valueTwo", 0)) for a in rule.get("args") or ()
        ]
        array = (Comparison * max(len(told), 1))(*told)
        for name in rule["names"]:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number != -1 and action != EPERM:
                library.seccomp_rule_add_array(context, action, number, len(told), array)
    fd = os.memfd_create("filter")
    try:
        assert library.seccomp_export_bpf(context, fd) == 0
        return os.pread(fd, 1 << 20, 0)
    finally:
        os.close(fd)
        library.seccomp_release(context)


def verdict(code: bytes, number: int, arguments: Sequence[int] = (), arch: int = X86_64) -> int:
    """Classic BPF as the kernel runs it: written apart from the product's own."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *[*arguments, *[0] * 6][:6])
    lines, at, a = list(struct.iter_unpack("<HBBI", code)), 0, 0
    while True:
        op, yes, no, k = lines[at]
        at += 1
        if op == 0x20:
            a = int.from_bytes(data[k : k + 4], "little")
        elif op == 0x54:
            a &= k
        elif op == 0x05:
            at += k
        elif op in (0x15, 0x25, 0x35, 0x45):
            at += yes if {0x15: a == k, 0x25: a > k, 0x35: a >= k, 0x45: bool(a & k)}[op] else no
        else:
            assert op == 0x06, hex(op)
            return int(k)


@pytest.mark.parametrize("held", CAPABILITIES, ids=lambda held: "+".join(held) or "none")
@pytest.mark.parametrize("table", ["x86_64", "i386", "x32"])
def test_every_number_answers_as_dockers(library: ctypes.CDLL, table: str, held: tuple[str, ...]) -> None:
    """0..600 of each table. Where libseccomp is older than a call, its name in the profile decides."""
    rules = published_rules(held)
    theirs, ours = compiled(library, rules), seccomp.compile_profile(defaults.default_seccomp(held)).code
    free = {
        name for rule in rules if rule["action"] == "SCMP_ACT_ALLOW" and not rule.get("args") for name in rule["names"]
    }
    numbers = syscalls.numbers(table)
    names = {number & ~X32_BIT: name for name, number in numbers.items()}
    highest = max(numbers[name] & ~X32_BIT for rule in rules for name in rule["names"] if name in numbers)
    arch, bit = (I386, 0) if table == "i386" else (X86_64, X32_BIT if table == "x32" else 0)
    differences = {}
    for number in range(601):
        by_name = ALLOW if names.get(number) in free else EPERM
        known = library.seccomp_syscall_resolve_num_arch(LIB_ARCH[table], number | bit)
        expected = verdict(theirs, number | bit, (), arch) if known else by_name
        expected = ENOSYS if number > highest else expected  # runc's patch: beyond the profile nothing exists
        if (found := verdict(ours, number | bit, (), arch)) != expected:
            differences[number] = (names.get(number), hex(found), hex(expected))
    assert not differences


def test_the_comparison_sees_a_difference(library: ctypes.CDLL) -> None:
    """The control: one call more or less in the profile is found."""
    rules = published_rules(())
    theirs = compiled(library, [*rules, {"names": ["mount"], "action": "SCMP_ACT_ALLOW"}])
    assert verdict(theirs, 165) == ALLOW
    assert verdict(compiled(library, rules), 165) == EPERM
    assert verdict(seccomp.compile_profile(defaults.default_seccomp(())).code, 165) == EPERM


ARGUMENTS = {
    "socket": [0, 1, 2, 16, 37, 38, 39, 40, 41, 45],
    "personality": [0, 1, 8, 0x20000, 0x20008, 0x20009, 0xFFFFFFFF, 0x1000000],
    "clone": [17, 0x8000 | 17, *(bit | 17 for bit in (0x20000, 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30))],
}


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("high", [0, 1, 0x80000000, 0xFFFFFFFF])
def test_arguments_answer_as_dockers_by_their_low_half(library: ctypes.CDLL, name: str, high: int) -> None:
    """The kernel cuts these arguments to 32 bits. libseccomp's rules look at 64, so socket(40 + 2^32) passes them and
    opens AF_VSOCK; ours answer for what the kernel will see."""
    theirs = compiled(library, published_rules(()))
    ours = seccomp.compile_profile(defaults.default_seccomp(())).code
    number = syscalls.numbers("x86_64")[name]
    for low in ARGUMENTS[name]:
        assert verdict(ours, number, (low | high << 32,)) == verdict(theirs, number, (low,)), (name, low, high)


def test_the_hole_that_ours_does_not_have(library: ctypes.CDLL) -> None:
    theirs = compiled(library, published_rules(()))
    assert verdict(theirs, 41, (40 | 1 << 32,)) == ALLOW
    assert verdict(seccomp.compile_profile(defaults.default_seccomp(())).code, 41, (40 | 1 << 32,)) == EPERM


@pytest.mark.parametrize("arch", [0, 0xC00000B7, 0x40000028, 0xFFFFFFFF])
def test_another_architecture_has_nothing(arch: int) -> None:
    ours = seccomp.compile_profile(defaults.default_seccomp(())).code
    assert {verdict(ours, number, (), arch) for number in range(601)} == {EPERM}
