"""Device rules of a cgroup: lines for v1's devices controller, a BPF program for v2 (bpf(2)).

OCI rules are a list in which the last match wins; nothing matched means denied. v1 keeps a list of its
own with other rules of precedence, so the rules are handed over from a clean "deny all".
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_ACCESS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_*
_TYPES = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_*


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRule:
    """`kind` is a (any), b or c; None for a number means any."""

    allow: bool
    kind: str = "a"
    major: int | None = None
    minor: int | None = None
    access: str = "rwm"

    def line(self) -> str:
        """As v1's devices.allow and devices.deny take it."""
        if self.kind == "a":
            return "a"
        return f"{self.kind} {_number(self.major)}:{_number(self.minor)} {self.access}"


def _number(value: int | None) -> str:
    return "*" if value is None else str(value)


def parse_rules(entries: Iterable[Mapping[str, Any]]) -> tuple[DeviceRule, ...]:
    """From linux.resources.devices. ValueError for what is not a rule."""
    return tuple(map(_parse_rule, entries))


def _parse_rule(entry: Mapping[str, Any]) -> DeviceRule:
    kind = {"u": "c", "p": "b"}.get(entry.get("type") or "a", entry.get("type") or "a")
    access = entry.get("access") or "rwm"
    if kind not in ("a", "b", "c") or not set(access) <= set(_ACCESS):
        raise ValueError(f"device rule {dict(entry)} is not type a, b or c with access of r, w, m")
    numbers = [entry.get("major"), entry.get("minor")]
    major, minor = (None if value is None or value < 0 else int(value) for value in numbers)
    if kind == "a" and (major is not None or minor is not None or len(set(access)) != 3):
        raise ValueError(f"device rule {dict(entry)} narrows type a")
    return DeviceRule(allow=bool(entry.get("allow")), kind=kind, major=major, minor=minor, access=access)


def v1_writes(rules: Sequence[DeviceRule]) -> Iterator[tuple[str, str]]:
    """(file, value) pairs; a list that does not say what it starts from starts from nothing allowed."""
    if rules[0].kind != "a":
        yield "devices.deny", "a"
    for rule in rules:
        yield ("devices.allow" if rule.allow else "devices.deny"), rule.line()


# ---- v2: struct bpf_cgroup_dev_ctx { u32 access_type (type | access << 16), major, minor } ----

_INSN = struct.Struct("<BBhi")


def _insn(code: int, dst: int, src: int, offset: int, immediate: int) -> bytes:
    return _INSN.pack(code, dst | src << 4, offset, immediate)


def _load(dst: int, offset: int) -> bytes:
    return _insn(0x61, dst, 1, offset, 0)  # dst = *(u32 *)(ctx + offset)


def _verdict(allow: bool) -> list[bytes]:
    return [_insn(0xB7, 0, 0, 0, int(allow)), _insn(0x95, 0, 0, 0, 0)]


def program(rules: Sequence[DeviceRule]) -> bytes:
    """eBPF: r2 type, r3 access, r4 major, r5 minor; rules from the last to the first, then deny."""
    code = [
        _load(2, 0),
        _insn(0xBC, 3, 2, 0, 0),
        _insn(0x54, 2, 0, 0, 0xFFFF),
        _insn(0x74, 3, 0, 0, 16),
        _load(4, 4),
        _load(5, 8),
    ]
    for rule in reversed(rules):
        code += _match(rule)
        if rule.kind == "a":
            return b"".join(code)
    return b"".join(code + _verdict(False))


def _match(rule: DeviceRule) -> list[bytes]:
    """Each test that fails jumps behind the rule's verdict."""
    tests = list[tuple[int, int]]()  # register, value it must have
    access = sum(_ACCESS[letter] for letter in set(rule.access))
    prologue = list[bytes]()
    if rule.kind != "a":
        tests.append((2, _TYPES[rule.kind]))
        if access != 7:
            prologue = [_insn(0xBC, 1, 3, 0, 0), _insn(0x54, 1, 0, 0, ~access & 7)]  # w1 = what is not granted
            tests.append((1, 0))
    tests += [(register, value) for register, value in ((4, rule.major), (5, rule.minor)) if value is not None]
    verdict = _verdict(rule.allow)
    jumps = [
        _insn(0x56, register, 0, len(tests) - index - 1 + len(verdict), value)  # if w != value goto behind
        for index, (register, value) in enumerate(tests)
    ]
    return [*prologue, *jumps, *verdict]


_NR_BPF = {"x86_64": 321, "aarch64": 280}
_PROG_LOAD, _PROG_ATTACH = 5, 8
_PROG_TYPE_CGROUP_DEVICE, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI, _REPLACE = 15, 6, 2, 4
_PROG_QUERY, _PROG_GET_FD_BY_ID = 16, 13


def _bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    """Result and what the kernel left in the attributes."""
    import ctypes  # half a megabyte, for cgroup v2 alone

    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = libc.syscall(_NR_BPF[os.uname().machine], command, buffer, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "bpf")
    return int(result), buffer.raw


def _load_program(code: bytes) -> int:
    import ctypes

    text, terms = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"Apache-2.0")
    addresses = (ctypes.addressof(text), ctypes.addressof(terms))
    head = struct.pack("<IIQQ", _PROG_TYPE_CGROUP_DEVICE, len(code) // 8, *addresses)
    return _bpf(_PROG_LOAD, head + bytes(120 - len(head)))[0]


def _attached(group: int) -> list[int]:
    """Ids of the device programs on the group itself."""
    import ctypes

    ids = (ctypes.c_uint32 * 16)()
    query = struct.pack("<IIIIQI", group, _ATTACH_CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), len(ids))
    _, answer = _bpf(_PROG_QUERY, query + bytes(72 - len(query)))
    return list(ids)[: struct.unpack_from("<I", answer, 24)[0]]


def attach(directory: str, rules: Sequence[DeviceRule]) -> None:
    """Load the program and attach it to a v2 group, in place of one that was attached before."""
    group = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fds = [group]
    try:
        fds.append(loaded := _load_program(program(rules)))
        before = _attached(group)
        flags, replaced = _ALLOW_MULTI, 0
        if len(before) == 1:
            fds.append(replaced := _bpf(_PROG_GET_FD_BY_ID, struct.pack("<III", before[0], 0, 0))[0])
            flags |= _REPLACE
        _bpf(_PROG_ATTACH, struct.pack("<IIIII", group, loaded, _ATTACH_CGROUP_DEVICE, flags, replaced))
    finally:
        for fd in fds:
            os.close(fd)
