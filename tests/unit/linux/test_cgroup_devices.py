"""Device rules: which node may be opened. The v2 program is read by a small interpreter of eBPF."""

from __future__ import annotations

import itertools
import struct

import pytest

from bulkhead.linux.cgroup_devices import DeviceRule, parse_rules, program, v1_writes
from bulkhead.runtime import defaults

M, R, W = 1, 2, 4
BLOCK, CHARACTER = 1, 2


def run(code: bytes, kind: int, access: int, major: int, minor: int) -> bool:
    """The instructions that `program` uses, over struct bpf_cgroup_dev_ctx."""
    context = struct.pack("<III", access << 16 | kind, major, minor)
    registers, at = [0] * 11, 0
    while True:
        op, regs, offset, immediate = struct.unpack_from("<BBhi", code, at * 8)
        dst, src, at = regs & 15, regs >> 4, at + 1
        if op == 0x61:
            registers[dst] = struct.unpack_from("<I", context, offset)[0]
        elif op == 0xBC:
            registers[dst] = registers[src]
        elif op == 0x54:
            registers[dst] &= immediate & 0xFFFFFFFF
        elif op == 0x74:
            registers[dst] >>= immediate
        elif op == 0xB7:
            registers[dst] = immediate
        elif op == 0x56:
            at += offset if registers[dst] != immediate else 0
        else:
            assert op == 0x95
            return bool(registers[0])


def reading(rules: tuple[DeviceRule, ...], kind: int, access: int, major: int, minor: int) -> bool:
    """The last rule that covers the access decides; nothing is allowed by itself."""
    allowed = False
    letters = {letter for letter, bit in (("m", M), ("r", R), ("w", W)) if access & bit}
    for rule in rules:
        fits = rule.kind == "a" or {"b": BLOCK, "c": CHARACTER}[rule.kind] == kind
        fits = fits and rule.major in (None, major) and rule.minor in (None, minor) and letters <= set(rule.access)
        allowed = rule.allow if fits else allowed
    return allowed


RULES = [
    {"allow": False, "access": "rwm"},
    {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
    {"allow": True, "type": "c", "major": 136, "access": "rw"},
    {"allow": True, "type": "b", "major": 8, "minor": -1, "access": "r"},
    {"allow": False, "type": "c", "major": 136, "minor": 7, "access": "rw"},
]


@pytest.mark.parametrize(
    "entries", [RULES, defaults.default_devices_rules(), [{"allow": True, "access": "rwm"}], RULES[1:]]
)
def test_the_program_decides_as_the_rules_read(entries: list[dict[str, object]]) -> None:
    rules = parse_rules(entries)
    code = program(rules)
    for kind, access, major, minor in itertools.product((BLOCK, CHARACTER), range(1, 8), (1, 8, 10, 136), (0, 3, 7)):
        assert run(code, kind, access, major, minor) == reading(rules, kind, access, major, minor), (
            kind,
            access,
            major,
            minor,
        )


def test_v1_starts_from_nothing_allowed() -> None:
    assert list(v1_writes(parse_rules(RULES)))[:2] == [("devices.deny", "a"), ("devices.allow", "c 1:3 rwm")]
    assert next(iter(v1_writes(parse_rules(RULES[1:])))) == ("devices.deny", "a")


@pytest.mark.parametrize(
    "entry", [{"type": "x"}, {"type": "c", "access": "rwx"}, {"type": "a", "major": 1}, {"access": "r"}]
)
def test_what_is_no_rule_is_an_error(entry: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        parse_rules([{"allow": True, **entry}])
