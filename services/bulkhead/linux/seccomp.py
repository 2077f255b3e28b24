"""Seccomp profiles (OCI linux.seccomp) compiled to classic BPF (seccomp(2), Documentation/userspace-api).

Each architecture's system calls become runs of numbers with one verdict, found by a binary search:
about half the instructions of a chain of comparisons, and the kernel's own evaluation of every number at
load time is several times faster. Three points differ from a naive compiler on purpose:

* arguments that the kernel cuts to 32 bits are compared by their low 32 bits, otherwise
  socket(40 | 1 << 32, ...) passes a rule against AF_VSOCK and the kernel opens one;
* numbers above the highest that the profile knows answer ENOSYS instead of the default error, so that C
  libraries fall back to older calls;
* an argument rule never weakens a rule without arguments for the same call, whatever their order.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bulkhead.linux import syscalls

VERSION = 1  # of the compiler: part of every cache key
MAX_INSTRUCTIONS = 4096

_INSN = struct.Struct("<HBBI")
_LD, _RET, _JA, _JEQ, _JGT, _JGE, _AND = 0x20, 0x06, 0x05, 0x15, 0x25, 0x35, 0x54
_OFFSET_NR, _OFFSET_ARCH, _OFFSET_ARGS = 0, 4, 16

KILL_THREAD = 0x00000000
KILL_PROCESS = 0x80000000
TRAP = 0x00030000
ERRNO = 0x00050000
TRACE = 0x7FF00000
LOG = 0x7FFC0000
ALLOW = 0x7FFF0000
ENOSYS = 38
EPERM = 1

_ACTIONS = {
    "SCMP_ACT_KILL": KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": KILL_PROCESS,
    "SCMP_ACT_TRAP": TRAP,
    "SCMP_ACT_ERRNO": ERRNO,
    "SCMP_ACT_TRACE": TRACE,
    "SCMP_ACT_LOG": LOG,
    "SCMP_ACT_ALLOW": ALLOW,
}
_FLAGS = {"SECCOMP_FILTER_FLAG_TSYNC": 1, "SECCOMP_FILTER_FLAG_LOG": 2, "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4}

AUDIT_X86_64 = 0xC000003E
AUDIT_I386 = 0x40000003
_ARCHITECTURES = {"SCMP_ARCH_X86_64": "x86_64", "SCMP_ARCH_X86": "i386", "SCMP_ARCH_X32": "x32"}

# Arguments that the kernel declares as int or uses as one; on i386 every argument is.
_INT_ARGUMENTS = {
    "clone": (0,),
    "fcntl": (0, 1),
    "ioctl": (0, 1),
    "personality": (0,),
    "prctl": (0,),
    "setns": (0, 1),
    "socket": (0, 1, 2),
    "socketpair": (0, 1, 2),
    "keyctl": (0,),
    "bpf": (0, 2),
    "kill": (0, 1),
    "open": (1,),
    "openat": (0, 2),
    "quotactl": (0,),
    "seccomp": (0, 1),
    "setsockopt": (0, 1, 2),
    "getsockopt": (0, 1, 2),
}


class ProfileError(ValueError):
    """The profile asks for something that does not exist or is not supported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """BPF instructions (8 bytes each) and the flags to load them with.

    `lets_fork`: whether a process under it can still become another one's sibling, lead a session and exec.
    """

    code: bytes
    flags: int = 0
    lets_fork: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    index: int
    op: str
    value: int
    value_two: int
    narrow: bool


@dataclass(frozen=True, slots=True)
class _Chain:
    """What one system call does: the first set of conditions that all hold decides, else `otherwise`."""

    otherwise: int
    rules: tuple[tuple[tuple[Condition, ...], int], ...] = ()


Code = list[tuple[int, int, int, int]]


def supported() -> bool:
    """Whether this machine's system calls are known here."""
    return os.uname().machine == "x86_64"


def compile_profile(profile: Mapping[str, Any]) -> Filter:
    """The filter for a linux.seccomp object. ProfileError when it cannot be expressed."""
    if not supported():
        raise ProfileError(f"seccomp profiles are not supported on {os.uname().machine}")
    if profile.get("listenerPath") or profile.get("listenerMetadata"):
        raise ProfileError("seccomp notification is not supported")
    default = _action(profile, "defaultAction", "defaultErrnoRet")
    wanted = _architectures(profile.get("architectures") or ())
    trees = {name: _tree(_intervals(name, profile, default)) for name in wanted}
    code = _dispatch(trees, default)
    if len(code) > MAX_INSTRUCTIONS:
        raise ProfileError(f"the seccomp profile needs {len(code)} instructions, the kernel takes {MAX_INSTRUCTIONS}")
    packed = b"".join(_INSN.pack(*line) for line in code)
    return Filter(code=packed, flags=_flags(profile.get("flags") or ()), lets_fork=allows(packed, _FORK_CALLS))


# clone(CLONE_PARENT), setsid, ioctl(0, TIOCSCTTY), the report to the caller, and the end of either side.
_FORK_CALLS = (
    ("clone", (0x00008000,)),
    ("setsid", ()),
    ("ioctl", (0, 0x540E)),
    ("sendmsg", (3,)),
    ("capset", ()),
    ("execve", ()),
    ("exit_group", ()),
)


def _flags(names: Iterable[str]) -> int:
    value = 0
    for name in names:
        if name not in _FLAGS:
            raise ProfileError(f"seccomp flag {name!r} is not supported")
        value |= _FLAGS[name]
    return value & ~1  # TSYNC: there is one thread


def _architectures(names: Iterable[str]) -> list[str]:
    """Of this machine's family, native first; others can never run here."""
    wanted = ["x86_64"]
    for name in names:
        if not name.startswith("SCMP_ARCH_"):
            raise ProfileError(f"seccomp architecture {name!r} is unknown")
        if (known := _ARCHITECTURES.get(name)) and known not in wanted:
            wanted.append(known)
    return wanted


def _action(entry: Mapping[str, Any], key: str, errno_key: str) -> int:
    name = entry.get(key)
    if name not in _ACTIONS:
        raise ProfileError(f"seccomp action {name!r} is not supported")
    action, given = _ACTIONS[name], entry.get(errno_key)
    if action in (ERRNO, TRACE):
        data = EPERM if given is None else int(given)
        if not 0 <= data <= 0xFFFF:
            raise ProfileError(f"seccomp errno {data} is out of range")
        return action | data
    return action


# ---- profile -> runs of numbers with one verdict ----


def _intervals(architecture: str, profile: Mapping[str, Any], default: int) -> list[tuple[int, _Chain]]:
    """(first number, verdict) in ascending order, covering everything from 0 up."""
    numbers = syscalls.numbers(architecture)
    chains: dict[int, _Chain] = {}
    highest = -1
    for rule in profile.get("syscalls") or ():
        action = _action(rule, "action", "errnoRet")
        for name in rule.get("names") or ():
            number = numbers.get(name)
            if number is None:
                continue  # not on this architecture, or newer than this table
            highest = max(highest, number)
            if action != default:
                conditions = _conditions(name, architecture, rule.get("args") or ())
                chains[number] = _extended(chains.get(number), conditions, action, default)
    return _runs(chains, default, _beyond(default), highest)


def _beyond(default: int) -> int:
    """What numbers above every known one answer."""
    return default if default in (ALLOW, LOG) or default & TRACE == TRACE else ERRNO | ENOSYS


def _extended(chain: _Chain | None, conditions: list[tuple[Condition, ...]], action: int, default: int) -> _Chain:
    if chain is not None and not chain.rules and chain.otherwise != default:
        return chain  # a rule without arguments stands
    if not conditions:
        return _Chain(action)
    rules = chain.rules if chain else ()
    return _Chain(default, (*rules, *((one, action) for one in conditions)))


def _conditions(name: str, architecture: str, entries: Sequence[Mapping[str, Any]]) -> list[tuple[Condition, ...]]:
    """Alternatives of conjunctions. Two conditions on one argument are alternatives, as libseccomp's users have it."""
    conditions = [_condition(name, architecture, entry) for entry in entries]
    if len({condition.index for condition in conditions}) < len(conditions):
        return [(condition,) for condition in conditions]
    return [tuple(conditions)] if conditions else []


def _condition(name: str, architecture: str, entry: Mapping[str, Any]) -> Condition:
    index, op = int(entry.get("index", 0)), str(entry.get("op"))
    value, value_two = int(entry.get("value", 0)), int(entry.get("valueTwo", 0) or 0)
    if not 0 <= index <= 5 or op not in _COMPARE:
        raise ProfileError(f"seccomp argument {dict(entry)} of {name} is not understood")
    if not (0 <= value < 1 << 64 and 0 <= value_two < 1 << 64):
        raise ProfileError(f"seccomp argument {dict(entry)} of {name} is out of range")
    narrow = architecture == "i386" or index in _INT_ARGUMENTS.get(name, ())
    return Condition(index=index, op=op, value=value, value_two=value_two, narrow=narrow)


def _runs(chains: Mapping[int, _Chain], default: int, beyond: int, highest: int) -> list[tuple[int, _Chain]]:
    plain, last = _Chain(default), _Chain(beyond)
    runs: list[tuple[int, _Chain]] = []
    for number in range(highest + 1):
        chain = chains.get(number, plain)
        if not runs or runs[-1][1] != chain:
            runs.append((number, chain))
    if not runs or runs[-1][1] != last:
        runs.append((highest + 1, last))
    return runs


# ---- runs -> code ----


def _jump(code: int, value: int, if_true: int, if_false: int) -> Code:
    """A conditional jump; where a distance does not fit its byte, an unconditional one carries it."""
    if if_true <= 255 and if_false <= 255:
        return [(code, if_true, if_false, value)]
    if if_true > 255 and if_false <= 254:
        return [(code, 0, if_false + 1, value), (_JA, 0, 0, if_true)]
    raise ProfileError("the seccomp profile has too long a chain of argument rules")


def _tree(runs: Sequence[tuple[int, _Chain]]) -> Code:
    """Expects the number in the accumulator."""
    if len(runs) == 1:
        return _verdict(runs[0][1])
    middle = len(runs) // 2
    left, right = _tree(runs[:middle]), _tree(runs[middle:])
    return _jump(_JGE, runs[middle][0], len(left), 0) + left + right


def _verdict(chain: _Chain) -> Code:
    code: Code = []
    for conditions, action in chain.rules:
        block: Code = [(_RET, 0, 0, action)]
        for condition in reversed(conditions):
            block = _compare(condition, len(block)) + block
        code += block
    return [*code, (_RET, 0, 0, chain.otherwise)]


def _load(index: int, high: bool) -> tuple[int, int, int, int]:
    return (_LD, 0, 0, _OFFSET_ARGS + 8 * index + (4 if high else 0))


def _halves(value: int) -> tuple[int, int]:
    return value >> 32, value & 0xFFFFFFFF


# op -> (how the low half is compared, whether the test is the opposite of the one named)
_COMPARE = {
    "SCMP_CMP_EQ": (_JEQ, False),
    "SCMP_CMP_NE": (_JEQ, True),
    "SCMP_CMP_GT": (_JGT, False),
    "SCMP_CMP_LE": (_JGT, True),
    "SCMP_CMP_GE": (_JGE, False),
    "SCMP_CMP_LT": (_JGE, True),
    "SCMP_CMP_MASKED_EQ": (_JEQ, False),
}


def _compare(c: Condition, skip: int) -> Code:
    """Falls through when the condition holds, else jumps over the `skip` instructions that follow."""
    jump, opposite = _COMPARE[c.op]
    masked = c.op == "SCMP_CMP_MASKED_EQ"
    mask_high, mask_low = _halves(c.value) if masked else (0xFFFFFFFF, 0xFFFFFFFF)
    high, low = _halves(c.value_two if masked else c.value)
    holds, fails = (skip, 0) if opposite else (0, skip)
    masking: Code = [(_AND, 0, 0, mask_low)] if masked else []
    tail: Code = [_load(c.index, False), *masking, (jump, holds, fails, low)]
    if c.narrow:
        return tail
    after = len(tail)
    if jump == _JEQ:
        masking = [(_AND, 0, 0, mask_high)] if masked else []
        return [_load(c.index, True), *masking, (_JEQ, 0, after + fails, high), *tail]
    # A high half that differs decides by itself; the jump over the tail takes its verdict along.
    return [_load(c.index, True), (_JGT, after + 1 + holds, 0, high), (_JEQ, 0, after + fails, high), *tail]


def _dispatch(trees: Mapping[str, Code], default: int) -> Code:
    refuse: Code = [(_RET, 0, 0, default)]
    number: Code = [(_LD, 0, 0, _OFFSET_NR)]
    i386 = number + trees["i386"] if "i386" in trees else refuse
    if "x32" in trees:
        x32: Code = [(_AND, 0, 0, ~syscalls.X32_BIT & 0xFFFFFFFF), *trees["x32"]]
    else:
        x32 = refuse
    native = trees["x86_64"]
    split = _jump(_JGE, syscalls.X32_BIT, len(native), 0)
    amd64 = number + split + native + x32
    rest = _jump(_JEQ, AUDIT_I386, len(refuse), 0) + refuse + i386
    return [(_LD, 0, 0, _OFFSET_ARCH), *_jump(_JEQ, AUDIT_X86_64, len(rest), 0), *rest, *amd64]


# ---- the same machine in Python: for questions to a filter, and for the tests ----


def evaluate(code: bytes, number: int, arguments: Sequence[int] = (), architecture: int = AUDIT_X86_64) -> int:
    """What the kernel would answer: an action, with its data in the low 16 bits."""
    padded = [*arguments, *(0,) * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, architecture, 0, *(value & (1 << 64) - 1 for value in padded))
    lines = list(_INSN.iter_unpack(code))
    accumulator = at = 0
    while True:
        op, if_true, if_false, value = lines[at]
        at += 1
        if op == _RET:
            return int(value)
        if op == _LD:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif op == _AND:
            accumulator &= value
        elif op == _JA:
            at += value
        else:
            holds = {_JEQ: accumulator == value, _JGT: accumulator > value, _JGE: accumulator >= value}[op]
            at += if_true if holds else if_false


def allows(code: bytes, calls: Iterable[tuple[str, Sequence[int]]]) -> bool:
    """Whether every one of these native calls (name, arguments) goes through."""
    numbers = syscalls.numbers("x86_64")
    return all(evaluate(code, numbers[name], arguments) == ALLOW for name, arguments in calls)


def disassemble(code: bytes) -> Iterator[str]:
    """One line per instruction, to look at."""
    for index, (op, if_true, if_false, value) in enumerate(_INSN.iter_unpack(code)):
        yield f"{index:4} {op:#04x} {if_true:3} {if_false:3} {value:#x}"
