"""Seccomp profiles (OCI linux.seccomp) compiled to classic BPF (seccomp(2), Documentation/userspace-api).

Each architecture's system calls become runs of numbers with one verdict, found by a binary search: a fifth of the
instructions of a chain of comparisons, and the kernel's own evaluation of every number at load time is several times
faster. Three points differ from a naive compiler on purpose:

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

from bulkhead.linux import seccomp_arch, syscalls
from bulkhead.linux.seccomp_arch import ARCHITECTURES, AUDIT_I386, AUDIT_X86_64, Architecture

__all__ = ["AUDIT_I386", "AUDIT_X86_64", "Filter", "ProfileError", "compile_profile", "evaluate"]

VERSION = 5  # of the compiler: part of every cache key
MAX_INSTRUCTIONS = 4096

_LD, _RET, _JA, _JEQ, _JGT, _JGE, _AND = 0x20, 0x06, 0x05, 0x15, 0x25, 0x35, 0x54
# Of a conditional jump, less what may still be written before it.
_REACH = 253
# In a row: more would take longer than halving them.
_MOST_SINGLES = 8
_OFFSET_NR, _OFFSET_ARCH, _OFFSET_ARGS = 0, 4, 16

KILL_THREAD = 0x00000000
KILL_PROCESS = 0x80000000
TRAP = 0x00030000
ERRNO = 0x00050000
NOTIFY = 0x7FC00000
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
    "SCMP_ACT_NOTIFY": NOTIFY,
    "SCMP_ACT_LOG": LOG,
    "SCMP_ACT_ALLOW": ALLOW,
}
_NEW_LISTENER, _WAIT_KILLABLE = 8, 32
_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,  # the launcher has one thread
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": _WAIT_KILLABLE,
}
_DEFAULT_FLAGS = ("SECCOMP_FILTER_FLAG_SPEC_ALLOW",)  # as runc: the mitigation costs more than it saves here

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
    `unknown`: names in the profile that no architecture has; their rules are left out.
    """

    code: bytes
    flags: int = 0
    lets_fork: bool = True
    unknown: tuple[str, ...] = ()

    @property
    def notifies(self) -> bool:
        """Whether loading it makes a listener, which somebody must have before its calls go on."""
        return bool(self.flags & _NEW_LISTENER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """`low` and `high` are where the halves of the argument are; None for one that only has a low half."""

    op: str
    value: int
    value_two: int
    index: int
    low: int
    high: int | None


@dataclass(frozen=True, slots=True)
class _Chain:
    """What one system call does: the first set of conditions that all hold decides, else `otherwise`."""

    otherwise: int
    rules: tuple[tuple[tuple[Condition, ...], int], ...] = ()


Code = list[tuple[int, int, int, int]]


def supported() -> bool:
    """Whether this machine's system calls are known here."""
    return _known(seccomp_arch.native())


def _known(family: Sequence[Architecture]) -> bool:
    return bool(family) and (family[0].name in ("x86_64", "x86") or seccomp_arch.available())


def compile_profile(profile: Mapping[str, Any], machine: str | None = None) -> Filter:
    """The filter for a linux.seccomp object, for this machine or one that uname(2) calls so.

    ProfileError when it cannot be expressed.
    """
    name = machine or os.uname().machine
    family = seccomp_arch.family(name)
    if not _known(family):
        raise ProfileError(f"seccomp profiles are not supported on {name} (is libseccomp installed?)")
    default = _default(profile)
    wanted = _architectures(profile.get("architectures") or (), family)
    code = _code(wanted, {each.name: _intervals(each, profile, default) for each in wanted}, default)
    if len(code) > MAX_INSTRUCTIONS:
        raise ProfileError(f"the seccomp profile needs {len(code)} instructions, the kernel takes {MAX_INSTRUCTIONS}")
    packed = b"".join(_insn(family[0]).pack(*line) for line in code)
    names = dict.fromkeys(name for rule in profile.get("syscalls") or () for name in rule.get("names") or ())
    return Filter(
        code=packed,
        flags=_flags(profile),
        lets_fork=allows(packed, _FORK_CALLS, family[0]),
        unknown=tuple(name for name in names if not seccomp_arch.is_known(name)),
    )


def _insn(architecture: Architecture) -> struct.Struct:
    """struct sock_filter in the words of the machine that loads it."""
    return struct.Struct(">HBBI" if architecture.big_endian else "<HBBI")


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


def _flags(profile: Mapping[str, Any]) -> int:
    told = profile.get("flags")
    value = 0
    for name in _DEFAULT_FLAGS if told is None else told:
        if name not in _FLAGS:
            raise ProfileError(f"seccomp flag {name!r} is not supported")
        value |= _FLAGS[name]
    if any(rule.get("action") == "SCMP_ACT_NOTIFY" for rule in profile.get("syscalls") or ()):
        if not profile.get("listenerPath"):
            raise ProfileError("seccomp action SCMP_ACT_NOTIFY needs a listenerPath")
        return value | _NEW_LISTENER
    if value & _WAIT_KILLABLE:
        raise ProfileError("seccomp flag SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a SCMP_ACT_NOTIFY rule")
    return value


def _architectures(names: Iterable[str], family: Sequence[Architecture]) -> list[Architecture]:
    """Of this machine's family, native first; others can never run here."""
    wanted = [family[0]]
    for name in names:
        known = ARCHITECTURES.get(name.removeprefix("SCMP_ARCH_").lower())
        if not name.startswith("SCMP_ARCH_") or (known is None and name != "SCMP_ARCH_NATIVE"):
            raise ProfileError(f"seccomp architecture {name!r} is unknown")
        if known in family and known is not None and known not in wanted:
            wanted.append(known)
    return wanted


def _default(profile: Mapping[str, Any]) -> int:
    if profile.get("defaultAction") == "SCMP_ACT_NOTIFY":
        raise ProfileError("SCMP_ACT_NOTIFY cannot be used as default action")
    return _action(profile, "defaultAction", "defaultErrnoRet")


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


def _intervals(architecture: Architecture, profile: Mapping[str, Any], default: int) -> list[tuple[int, _Chain]]:
    """(first number, verdict) in ascending order, covering everything from 0 up."""
    chains: dict[int, _Chain] = {}
    highest = -1
    for rule in profile.get("syscalls") or ():
        action = _action(rule, "action", "errnoRet")
        for name in rule.get("names") or ():
            if name == "write" and action == NOTIFY:
                raise ProfileError("SCMP_ACT_NOTIFY cannot be used for the write syscall")
            for number, conditions in _targets(name, architecture, rule.get("args") or (), action, default):
                if number < _PRIVATE:
                    highest = max(highest, number)
                if action != default:
                    chains[number] = _extended(chains.get(number), conditions, action, default)
    return _runs(chains, default, _beyond(default), highest)


_PRIVATE = 0x0F0000  # from here on arm has calls of its own, which do not say how new the profile is
_Alternatives = list[tuple[Condition, ...]]


def _targets(
    name: str, architecture: Architecture, arguments: Sequence[Mapping[str, Any]], action: int, default: int
) -> Iterator[tuple[int, _Alternatives]]:
    """The numbers a call goes by. Not on this architecture, or newer than this table: none."""
    number = seccomp_arch.number(architecture, name)
    if number is not None:
        yield number, _conditions(name, architecture, arguments)
    way, part = _MULTIPLEXED.get(name, ("", 0))
    multiplexer = seccomp_arch.number(architecture, way) if way else None
    # The multiplexer has the arguments in memory: rules on them cannot be kept, and must not open it.
    if multiplexer is not None and (not arguments or _severity(action) < _severity(default)):
        selector = {"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 0xFFFF, "valueTwo": part}
        yield multiplexer, _conditions(way, architecture, [selector])


def _severity(action: int) -> int:
    """As the kernel orders them: what kills the process is lowest, what allows is highest."""
    return (action & 0xFFFF0000) - ((action & 0x80000000) << 1)


# socketcall(2) and ipc(2): calls of i386, s390, ppc and others that reach many, chosen by the first argument.
_SOCKET_CALLS = """
socket bind connect listen accept getsockname getpeername socketpair send recv sendto recvfrom shutdown setsockopt
getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg
"""
_MULTIPLEXED = {
    **{name: ("socketcall", part) for part, name in enumerate(_SOCKET_CALLS.split(), 1)},
    **{name: ("ipc", part) for part, name in enumerate(("semop", "semget", "semctl", "semtimedop"), 1)},
    **{name: ("ipc", part) for part, name in enumerate(("msgsnd", "msgrcv", "msgget", "msgctl"), 11)},
    **{name: ("ipc", part) for part, name in enumerate(("shmat", "shmdt", "shmget", "shmctl"), 21)},
}


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


def _conditions(name: str, architecture: Architecture, entries: Sequence[Mapping[str, Any]]) -> _Alternatives:
    """Alternatives of conjunctions. Two conditions on one argument are alternatives, as libseccomp's users have it."""
    conditions = [_condition(name, architecture, entry) for entry in entries]
    if len({condition.index for condition in conditions}) < len(conditions):
        return [(condition,) for condition in conditions]
    return [tuple(conditions)] if conditions else []


def _condition(name: str, architecture: Architecture, entry: Mapping[str, Any]) -> Condition:
    index, op = int(entry.get("index", 0)), str(entry.get("op"))
    value, value_two = int(entry.get("value", 0)), int(entry.get("valueTwo", 0) or 0)
    if not 0 <= index <= 5 or op not in _COMPARE:
        raise ProfileError(f"seccomp argument {dict(entry)} of {name} is not understood")
    if not (0 <= value < 1 << 64 and 0 <= value_two < 1 << 64):
        raise ProfileError(f"seccomp argument {dict(entry)} of {name} is out of range")
    first, second = _OFFSET_ARGS + 8 * index, _OFFSET_ARGS + 8 * index + 4
    low, high = (second, first) if architecture.big_endian else (first, second)
    narrow = not architecture.wide or index in _INT_ARGUMENTS.get(name, ())
    return Condition(index=index, op=op, value=value, value_two=value_two, low=low, high=None if narrow else high)


def _runs(chains: Mapping[int, _Chain], default: int, beyond: int, highest: int) -> list[tuple[int, _Chain]]:
    plain, last = _Chain(default), _Chain(beyond)
    runs: list[tuple[int, _Chain]] = []
    for number in sorted({0, highest + 1, *chains, *(each + 1 for each in chains)}):
        chain = chains.get(number, plain if number <= highest else last)
        if not runs or runs[-1][1] != chain:
            runs.append((number, chain))
    return runs


# ---- runs -> code ----


class _Program:
    """Written from its end to its begin, since jumps lead forward only: what is written is known by how much is behind
    it. What is written once serves all, whatever their architecture: the kernel compiles all of it at each load.
    """

    def __init__(self) -> None:
        self._behind: Code = []
        self._places: dict[_Chain, int] = {}

    def code(self) -> Code:
        return self._behind[::-1]

    def write(self, line: tuple[int, int, int, int]) -> int:
        """Its place."""
        self._behind.append(line)
        return len(self._behind) - 1

    def write_before(self, place: int, line: tuple[int, int, int, int]) -> int:
        """What is one verdict for all may be far behind, written for another architecture."""
        if place != len(self._behind) - 1:
            self.write((_JA, 0, 0, self._distance(place)))
        return self.write(line)

    def branch(self, jump: int, value: int, if_true: int, if_false: int) -> int:
        """To places, whose distance may not fit its byte: an unconditional jump carries it then."""
        if_true, if_false = self._within_reach(if_true), self._within_reach(if_false)
        return self.write((jump, self._distance(if_true), self._distance(if_false), value))

    def decide(self, chain: _Chain) -> int:
        """Where that is done."""
        place = self._places.get(chain)
        if place is None:
            for line in reversed(_verdict(chain)):
                place = self.write(line)
            assert place is not None
        return self.lead(chain, place)

    def lead(self, chain: _Chain, place: int) -> int:
        """Whose verdict is `chain` goes there, or to what leads there."""
        self._places[chain] = near = self._within_reach(place)
        return near

    def search(self, runs: Sequence[tuple[int, _Chain]]) -> int:
        """Expects the number in the accumulator."""
        return self._search(_stretches(runs))

    def _search(self, stretches: Sequence[_Stretch]) -> int:
        if len(stretches) == 1:
            return self._compare_all(stretches[0])
        middle = len(stretches) // 2
        right, left = self._search(stretches[middle:]), self._search(stretches[:middle])
        return self.branch(_JGE, stretches[middle].first, right, left)

    def _compare_all(self, stretch: _Stretch) -> int:
        place = self.decide(stretch.chain)
        for number, chain in reversed(stretch.singles):
            place = self.branch(_JEQ, number, self.decide(chain), place)
        return place

    def _within_reach(self, place: int) -> int:
        return place if self._distance(place) <= _REACH else self.write((_JA, 0, 0, self._distance(place)))

    def _distance(self, place: int) -> int:
        return len(self._behind) - place - 1


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Numbers from `first` on that have one verdict, but for single ones among them."""

    first: int
    chain: _Chain
    singles: Sequence[tuple[int, _Chain]]


def _stretches(runs: Sequence[tuple[int, _Chain]]) -> list[_Stretch]:
    """A number between two runs of one verdict takes one comparison; as a run of its own it took two."""
    found: list[_Stretch] = []
    at = 0
    while at < len(runs):
        begin, (first, chain) = at, runs[at]
        while _is_among(runs, at + 1, chain) and at - begin < 2 * _MOST_SINGLES:
            at += 2
        found.append(_Stretch(first, chain, runs[begin + 1 : at : 2]))
        at += 1
    return found


def _is_among(runs: Sequence[tuple[int, _Chain]], at: int, chain: _Chain) -> bool:
    """Whether this run is of one number, and what follows is `chain`."""
    return at + 1 < len(runs) and runs[at + 1] == (runs[at][0] + 1, chain)


def _verdict(chain: _Chain) -> Code:
    code: Code = []
    for conditions, action in chain.rules:
        block: Code = [(_RET, 0, 0, action)]
        for condition in reversed(conditions):
            block = _compare(condition, len(block)) + block
        code += block
    return [*code, (_RET, 0, 0, chain.otherwise)]


def _load(offset: int) -> tuple[int, int, int, int]:
    return (_LD, 0, 0, offset)


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
    tail: Code = [_load(c.low), *masking, (jump, holds, fails, low)]
    if c.high is None:
        return tail
    after = len(tail)
    if jump == _JEQ:
        masking = [(_AND, 0, 0, mask_high)] if masked else []
        return [_load(c.high), *masking, (_JEQ, 0, after + fails, high), *tail]
    # A high half that differs decides by itself; the jump over the tail takes its verdict along.
    return [_load(c.high), (_JGT, after + 1 + holds, 0, high), (_JEQ, 0, after + fails, high), *tail]


def _code(wanted: Sequence[Architecture], runs: Mapping[str, Sequence[tuple[int, _Chain]]], default: int) -> Code:
    """By the architecture of the caller, the first one first."""
    program = _Program()
    begin = program.decide(_Chain(default))
    for each in reversed([one for one in wanted if one.name != "x32"]):
        here = program.search(runs[each.name])
        if each.audit == AUDIT_X86_64:
            here = program.branch(_JGE, syscalls.X32_BIT, _x32(program, here, runs, default), here)
        here = program.write_before(here, _load(_OFFSET_NR))
        begin = program.branch(_JEQ, each.audit, here, begin)
    program.write(_load(_OFFSET_ARCH))
    return program.code()


def _x32(program: _Program, native: int, runs: Mapping[str, Sequence[tuple[int, _Chain]]], default: int) -> int:
    """It has x86_64's token, a bit in its numbers, and few of them that answer otherwise."""
    if "x32" not in runs:
        return program.decide(_Chain(default))
    program.lead(_AS_NATIVE, native)
    here = program.search(_differing(runs["x32"], runs["x86_64"]))
    return program.write_before(here, (_AND, 0, 0, ~syscalls.X32_BIT & 0xFFFFFFFF))


# No verdict of its own.
_AS_NATIVE = _Chain(-1)


def _differing(runs: Sequence[tuple[int, _Chain]], native: Sequence[tuple[int, _Chain]]) -> list[tuple[int, _Chain]]:
    """The runs, but for what has the same verdict among the native ones."""
    found: list[tuple[int, _Chain]] = []
    for first in sorted({number for number, _ in (*runs, *native)}):
        chain, other = _at(runs, first), _at(native, first)
        if chain == other:
            chain = _AS_NATIVE
        if not found or found[-1][1] != chain:
            found.append((first, chain))
    return found


def _at(runs: Sequence[tuple[int, _Chain]], number: int) -> _Chain:
    return next(chain for first, chain in reversed(runs) if first <= number)


# ---- the same machine in Python: for questions to a filter, and for the tests ----


def evaluate(code: bytes, number: int, arguments: Sequence[int] = (), architecture: int = AUDIT_X86_64) -> int:
    """What the kernel would answer: an action, with its data in the low 16 bits. `architecture` is an audit token."""
    padded = [*arguments, *(0,) * (6 - len(arguments))]
    order = "<" if architecture & 0x40000000 or not architecture else ">"
    words = (value & (1 << 64) - 1 for value in padded)
    data = struct.pack(f"{order}IIQ6Q", number & 0xFFFFFFFF, architecture, 0, *words)
    lines = list(struct.iter_unpack(f"{order}HBBI", code))
    accumulator = at = 0
    while True:
        op, if_true, if_false, value = lines[at]
        at += 1
        if op == _RET:
            return int(value)
        if op == _LD:
            accumulator = struct.unpack_from(f"{order}I", data, value)[0]
        elif op == _AND:
            accumulator &= value
        elif op == _JA:
            at += value
        else:
            holds = {_JEQ: accumulator == value, _JGT: accumulator > value, _JGE: accumulator >= value}[op]
            at += if_true if holds else if_false


def allows(
    code: bytes, calls: Iterable[tuple[str, Sequence[int]]], architecture: Architecture = ARCHITECTURES["x86_64"]
) -> bool:
    """Whether every one of these calls (name, arguments) goes through; a name the architecture lacks does."""
    numbers = ((seccomp_arch.number(architecture, name), arguments) for name, arguments in calls)
    return all(
        evaluate(code, number, arguments, architecture.audit) == ALLOW
        for number, arguments in numbers
        if number is not None
    )
