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
        elif op == 0x16:
            at += offset if registers[dst] == immediate else 0
        elif op == 0x56:
            at += offset if registers[dst] != immediate else 0
        else:
            assert op == 0x95
            return bool(registers[0])


def reading(rules: tuple[DeviceRule, ...], kind: int, access: int, major: int, minor: int) -> bool:
    """The last rule that covers an access decides about it; nothing is allowed by itself."""
    return all(_allowed(rules, kind, letter, major, minor) for letter, bit in LETTERS if access & bit)


LETTERS = (("m", M), ("r", R), ("w", W))


def _allowed(rules: tuple[DeviceRule, ...], kind: int, letter: str, major: int, minor: int) -> bool:
    allowed = False
    for rule in rules:
        fits = rule.kind == "a" or {"b": BLOCK, "c": CHARACTER}[rule.kind] == kind
        fits = fits and rule.major in (None, major) and rule.minor in (None, minor) and letter in rule.access
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
    "entries",
    [
        RULES,
        defaults.default_devices_rules(),
        [{"allow": True, "access": "rwm"}],
        RULES[1:],
        [{"allow": True}, {"allow": False, "type": "c", "major": 1, "minor": 3, "access": "w"}],
        [{"allow": True, "type": "c", "major": 1, "access": letter} for letter in "rw"],
    ],
)
def test_the_program_decides_as_the_rules_read(entries: list[dict[str, object]]) -> None:
    rules = parse_rules(entries)
    code = program(rules)
    for case in itertools.product((BLOCK, CHARACTER), range(1, 8), (1, 8, 10, 136), (0, 3, 7)):
        assert run(code, *case) == reading(rules, *case), case


def test_a_denial_of_writing_stops_who_reads_and_writes() -> None:
    """Opening O_RDWR asks for both at once: a rule against one of them must not look away."""
    rules = parse_rules([{"allow": True}, {"allow": False, "type": "c", "major": 1, "minor": 3, "access": "w"}])
    assert not run(program(rules), CHARACTER, R | W, 1, 3)
    assert run(program(rules), CHARACTER, R, 1, 3)


def v1(entries: list[dict[str, object]], present: str = "a *:* rwm") -> list[tuple[str, str]]:
    return list(v1_writes(parse_rules(entries), present))


def test_v1_starts_from_nothing_allowed() -> None:
    for entries in (RULES[:4], RULES[1:4]):
        assert v1(entries) == [
            ("devices.deny", "a"),
            ("devices.allow", "c 1:3 rwm"),
            ("devices.allow", "c 136:* rw"),
            ("devices.allow", "b 8:* r"),
        ]


def test_v1_changes_only_what_differs() -> None:
    """A process that writes to /dev/null during an update must not meet a moment in which it may not."""
    assert v1(RULES[:2], "c 1:3 rw\nc 5:0 rwm\n") == [("devices.allow", "c 1:3 m"), ("devices.deny", "c 5:0 rwm")]
    assert v1(RULES[:2], "c 1:3 rwm\n") == []


def test_v1_everything_but() -> None:
    exception = {"allow": False, "type": "c", "major": 10, "minor": 229, "access": "rwm"}
    assert v1([{"allow": True}, exception], "c 1:3 r\n") == [("devices.allow", "a"), ("devices.deny", "c 10:229 rwm")]


def test_v1_takes_back_what_an_earlier_rule_gave() -> None:
    both = [RULES[0], RULES[1], {**RULES[1], "allow": False, "access": "wm"}]
    assert v1(both) == [("devices.deny", "a"), ("devices.allow", "c 1:3 r")]
    assert v1([*RULES[:2], {"allow": False, "type": "c", "access": "rwm"}]) == [("devices.deny", "a")]


def test_v1_cannot_cut_into_a_wildcard() -> None:
    """The kernel ignores such a line: the device would stay allowed without a word."""
    with pytest.raises(ValueError, match=r"cuts into 'c 136:\* rw'"):
        v1(RULES)


@pytest.mark.parametrize(
    "entry", [{"type": "x"}, {"type": "c", "access": "rwx"}, {"type": "a", "major": 1}, {"access": "r"}]
)
def test_what_is_no_rule_is_an_error(entry: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        parse_rules([{"allow": True, **entry}])
