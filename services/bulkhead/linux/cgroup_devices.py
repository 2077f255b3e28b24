"""Device rules of a cgroup: lines for v1's devices controller, a BPF program for v2 (bpf(2)).

OCI rules are a list in which the last match wins; nothing matched means denied. v1 keeps exceptions to one
default instead, so the rules are played through here and only their outcome is handed over.
"""

from __future__ import annotations

import errno
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
        return "a" if self.kind == "a" else _line((self.kind, self.major, self.minor), self.access)


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


# What is granted in v1's "deny all, but": access letters by (kind, major, minor), None for a wildcard.
Granted = dict[tuple[str, int | None, int | None], str]


def v1_writes(rules: Sequence[DeviceRule], present: str = "a *:* rwm") -> Iterator[tuple[str, str]]:
    """(file, value) pairs that lead from devices.list's `present` text to the rules, and never through less than
    both of them: members that run meanwhile keep what they keep.

    v1 takes a rule back only by the same numbers it was given by. ValueError for a denial inside a wildcard.
    """
    before, (everything, wanted) = _listed(present), granted(rules)
    if everything:
        yield "devices.allow", "a"  # also where all is allowed: exceptions to that are not told
        for key, access in wanted.items():
            yield "devices.deny", _line(key, access)
        return
    if before is None:
        yield "devices.deny", "a"
        before = {}
    for key, access in wanted.items():
        if missing := _without(access, before.get(key, "")):
            yield "devices.allow", _line(key, missing)
    for key, access in before.items():
        if surplus := _without(access, wanted.get(key, "")):
            yield "devices.deny", _line(key, surplus)


def _line(key: tuple[str, int | None, int | None], access: str) -> str:
    kind, major, minor = key
    return f"{kind} {_number(major)}:{_number(minor)} {access}"


def _without(access: str, taken: str) -> str:
    return "".join(letter for letter in access if letter not in taken)


def _listed(present: str) -> Granted | None:
    """devices.list; None for "a *:* rwm": all but what it does not tell."""
    granted: Granted = {}
    for line in present.splitlines():
        kind, numbers, access = line.split()
        if kind == "a":
            return None
        major, _, minor = numbers.partition(":")
        granted[kind, _listed_number(major), _listed_number(minor)] = access
    return granted


def _listed_number(word: str) -> int | None:
    return None if word == "*" else int(word)


def granted(rules: Sequence[DeviceRule]) -> tuple[bool, Granted]:
    """(whether all is allowed, the exceptions to that) after the rules, the last match winning."""
    everything, exceptions = False, Granted()
    for rule in rules:
        if rule.kind == "a":
            everything, exceptions = rule.allow, {}
        elif rule.allow != everything:
            key = (rule.kind, rule.major, rule.minor)
            exceptions[key] = _merged(exceptions.get(key, ""), rule.access)
        else:
            _take_back(exceptions, rule)
    return everything, exceptions


def _merged(access: str, more: str) -> str:
    return "".join(letter for letter in "rwm" if letter in access or letter in more)


def _take_back(exceptions: Granted, rule: DeviceRule) -> None:
    for key, access in list(exceptions.items()):
        if not _overlap(key, rule) or not set(access) & set(rule.access):
            continue
        if not _covers(rule, key):
            raise ValueError(f"device rule {rule.line()!r} cuts into {_line(key, access)!r}, which cgroup v1 cannot")
        exceptions[key] = _without(access, rule.access)
        if not exceptions[key]:
            del exceptions[key]


def _overlap(key: tuple[str, int | None, int | None], rule: DeviceRule) -> bool:
    pairs = ((key[1], rule.major), (key[2], rule.minor))
    return key[0] == rule.kind and all(one is None or other is None or one == other for one, other in pairs)


def _covers(rule: DeviceRule, key: tuple[str, int | None, int | None]) -> bool:
    return all(mine is None or mine == other for mine, other in ((rule.major, key[1]), (rule.minor, key[2])))


# ---- v2: struct bpf_cgroup_dev_ctx { u32 access_type (type | access << 16), major, minor } ----

_INSN = struct.Struct("<BBhi")


def _insn(code: int, dst: int, src: int, offset: int, immediate: int) -> bytes:
    return _INSN.pack(code, dst | src << 4, offset, immediate)


def _load(dst: int, offset: int) -> bytes:
    return _insn(0x61, dst, 1, offset, 0)  # dst = *(u32 *)(ctx + offset)


def _verdict(allow: bool) -> list[bytes]:
    return [_insn(0xB7, 0, 0, 0, int(allow)), _insn(0x95, 0, 0, 0, 0)]


def program(rules: Sequence[DeviceRule]) -> bytes:
    """eBPF: r2 type, r3 the accesses not decided yet, r4 major, r5 minor; rules from the last to the first, then deny.

    Each access bit has its own last match: reading and writing at once passes where both would.
    """
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
    """Each test that fails jumps behind the rule's body."""
    if rule.kind == "a":
        return _verdict(rule.allow)
    tests = [(2, _TYPES[rule.kind])]  # register, value it must have
    tests += [(register, value) for register, value in ((4, rule.major), (5, rule.minor)) if value is not None]
    body = _decide(rule.allow, sum(_ACCESS[letter] for letter in set(rule.access)))
    jumps = [
        _insn(0x56, register, 0, len(tests) - index - 1 + len(body), value)  # if w != value goto behind
        for index, (register, value) in enumerate(tests)
    ]
    return [*jumps, *body]


def _decide(allow: bool, access: int) -> list[bytes]:
    verdict = _verdict(allow)
    if allow:  # w3 &= ~access; if w3 != 0 goto behind
        return [_insn(0x54, 3, 0, 0, ~access & 7), _insn(0x56, 3, 0, len(verdict), 0), *verdict]
    # w1 = w3 & access; if w1 == 0 goto behind
    test = [_insn(0xBC, 1, 3, 0, 0), _insn(0x54, 1, 0, 0, access), _insn(0x16, 1, 0, len(verdict), 0)]
    return [*test, *verdict]


# Every architecture that took its table from asm-generic has 280.
_NR_BPF = {"x86_64": 321, "i686": 357, "armv7l": 386, "s390x": 351, "ppc64le": 361}
_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH = 5, 8, 9
_PROG_TYPE_CGROUP_DEVICE, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI, _REPLACE = 15, 6, 2, 4
_PROG_QUERY, _PROG_GET_FD_BY_ID = 16, 13


def _bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    """Result and what the kernel left in the attributes."""
    import ctypes  # half a megabyte, for cgroup v2 alone

    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = libc.syscall(_NR_BPF.get(os.uname().machine, 280), command, buffer, len(attributes))
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
    """Load the program and attach it to a v2 group, in place of those that were attached before.

    Who may not load programs (rootless) gets PermissionError, unless the rules allow everything anyway.
    """
    group = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fds = [group]
    try:
        fds.append(loaded := _load_program(program(rules)))
        before = _attached(group)
        fds += (old := [_bpf(_PROG_GET_FD_BY_ID, struct.pack("<III", each, 0, 0))[0] for each in before])
        if len(old) == 1 and _replaced(group, loaded, old[0]):
            return
        _bpf(_PROG_ATTACH, struct.pack("<IIIII", group, loaded, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI, 0))
        for each in old:  # several: all must agree to allow, so none may stay
            _bpf(_PROG_DETACH, struct.pack("<IIIII", group, each, _ATTACH_CGROUP_DEVICE, 0, 0))
    except PermissionError:
        if granted(rules) != (True, {}):
            raise
    finally:
        for fd in fds:
            os.close(fd)


def _replaced(group: int, loaded: int, old: int) -> bool:
    """In one step, so that no moment is without rules; kernels before 5.6 do not know how."""
    try:
        flags = _ALLOW_MULTI | _REPLACE
        _bpf(_PROG_ATTACH, struct.pack("<IIIII", group, loaded, _ATTACH_CGROUP_DEVICE, flags, old))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True
