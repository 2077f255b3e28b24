"""The compiler against a plain reading of the profile: a wrong verdict is a hole or a broken program."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Mapping
from typing import Any

import pytest

from bulkhead.linux import seccomp, seccomp_arch, syscalls
from bulkhead.linux.seccomp import (
    ALLOW,
    AUDIT_I386,
    AUDIT_X86_64,
    ENOSYS,
    ERRNO,
    ProfileError,
    compile_profile,
    evaluate,
)
from bulkhead.runtime import defaults

pytestmark = pytest.mark.skipif(not seccomp.supported(), reason="no system call table for this machine")

NATIVE = syscalls.numbers("x86_64")
TABLES = {"x86_64": (AUDIT_X86_64, 0), "x32": (AUDIT_X86_64, syscalls.X32_BIT), "i386": (AUDIT_I386, 0)}
EPERM = ERRNO | 1
ALL = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
Profile = dict[str, Any]


def profile(*rules: Mapping[str, Any], default: str = "SCMP_ACT_ERRNO", **rest: Any) -> Profile:
    return {"defaultAction": default, "architectures": ALL, "syscalls": list(rules), **rest}


def allow(*names: str, **argument: Any) -> Profile:
    rule: Profile = {"names": list(names), "action": "SCMP_ACT_ALLOW"}
    return {**rule, "args": [argument]} if argument else rule


def verdict(made: Profile, name: str, *arguments: int) -> int:
    return evaluate(compile_profile(made).code, NATIVE[name], arguments)


def docker(*capabilities: str) -> bytes:
    return compile_profile(defaults.default_seccomp(capabilities)).code


def test_every_number_of_every_architecture_answers_as_the_profile_says() -> None:
    made = profile(allow("read", "write", "openat", "clone", "mmap2", "socketcall"))
    code = compile_profile(made).code
    for name, (audit, bit) in TABLES.items():
        table = syscalls.numbers(name)
        allowed = {table[call] for call in made["syscalls"][0]["names"] if call in table}
        for number in range(600):
            expected = ALLOW if number in allowed else EPERM if number <= max(allowed) else ERRNO | ENOSYS
            assert evaluate(code, number | bit, (), audit) == expected, (name, number)


def test_a_profile_that_knows_no_call_says_of_each_that_it_does_not_exist() -> None:
    code = compile_profile(profile()).code
    for name, (audit, bit) in TABLES.items():
        assert evaluate(code, 0 | bit, (), audit) == ERRNO | ENOSYS, name


@pytest.mark.parametrize("audit", [0, 0xC00000B7, 0x40000028], ids=["none", "aarch64", "arm"])
def test_another_architecture_gets_the_default(audit: int) -> None:
    assert evaluate(compile_profile(profile(allow("read"))).code, 0, (), audit) == EPERM


def test_an_architecture_that_is_not_named_gets_the_default() -> None:
    code = compile_profile({**profile(allow("read")), "architectures": ["SCMP_ARCH_X86_64"]}).code
    assert evaluate(code, 0) == ALLOW
    assert evaluate(code, syscalls.X32_BIT) == EPERM
    assert evaluate(code, 3, (), AUDIT_I386) == EPERM


@pytest.mark.parametrize("number", [467, 500, 100_000, 0x3FFFFFFF])
def test_numbers_newer_than_the_profile_do_not_exist(number: int) -> None:
    """A C library falls back on ENOSYS and gives up on EPERM."""
    assert evaluate(docker(), number) == ERRNO | ENOSYS


def test_a_default_that_allows_allows_the_unknown_too() -> None:
    assert evaluate(compile_profile(profile(default="SCMP_ACT_ALLOW")).code, 9999) == ALLOW


@pytest.mark.parametrize("family", [38, 40, 38 | 1 << 32, 40 | 1 << 32, 40 | 1 << 63])
def test_refused_socket_families_stay_refused_with_high_bits(family: int) -> None:
    """The kernel cuts the family to an int: a comparison of 64 bits lets 40 + 2^32 through."""
    assert evaluate(docker(), NATIVE["socket"], (family, 1, 0)) == EPERM


@pytest.mark.parametrize("family", [0, 1, 2, 16, 37, 39, 41, 45])
def test_other_socket_families_are_allowed(family: int) -> None:
    assert evaluate(docker(), NATIVE["socket"], (family, 1, 0)) == ALLOW


@pytest.mark.parametrize("flag", [0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x00020000])
def test_clone_makes_no_namespace_without_sys_admin(flag: int) -> None:
    clone = NATIVE["clone"]
    assert evaluate(docker(), clone, (flag | 17,)) == EPERM
    assert evaluate(docker(), clone, (flag | 17 | 1 << 40,)) == EPERM
    assert evaluate(docker("CAP_SYS_ADMIN"), clone, (flag | 17,)) == ALLOW
    assert evaluate(docker(), clone, (17 | 1 << 40,)) == ALLOW


def test_clone3_seems_missing_without_sys_admin() -> None:
    assert evaluate(docker(), NATIVE["clone3"]) == ERRNO | ENOSYS
    assert evaluate(docker("CAP_SYS_ADMIN"), NATIVE["clone3"]) == ALLOW


@pytest.mark.parametrize(
    ("value", "ok"), [(0, True), (8, True), (0x20008, True), (0xFFFFFFFF, True), (1, False), (4, False)]
)
def test_personalities(value: int, ok: bool) -> None:
    for high in (0, 1 << 32):
        assert evaluate(docker(), NATIVE["personality"], (value | high,)) == (ALLOW if ok else EPERM)


OPERATORS = {
    "SCMP_CMP_NE": lambda a, v, w: a != v,
    "SCMP_CMP_LT": lambda a, v, w: a < v,
    "SCMP_CMP_LE": lambda a, v, w: a <= v,
    "SCMP_CMP_EQ": lambda a, v, w: a == v,
    "SCMP_CMP_GE": lambda a, v, w: a >= v,
    "SCMP_CMP_GT": lambda a, v, w: a > v,
    "SCMP_CMP_MASKED_EQ": lambda a, v, w: a & v == w,
}
VALUES = [0, 1, 5, 0xFFFFFFFF, 1 << 32, (1 << 32) + 5, (1 << 63) | 5, (1 << 64) - 1]


@pytest.mark.parametrize("op", OPERATORS)
def test_comparisons_are_exact_in_64_bits(op: str) -> None:
    for value in VALUES:
        for mask in (0, 5, 1 << 32) if op == "SCMP_CMP_MASKED_EQ" else (0,):
            code = compile_profile(profile(allow("lseek", index=1, op=op, value=value, valueTwo=mask))).code
            for given in VALUES:
                expected = ALLOW if OPERATORS[op](given, value, mask) else EPERM
                assert evaluate(code, NATIVE["lseek"], (0, given)) == expected, (op, value, mask, given)


def test_a_rule_without_arguments_stands_whatever_the_order() -> None:
    narrow, wide = (
        allow("dup", index=0, op="SCMP_CMP_EQ", value=3),
        {"names": ["dup"], "action": "SCMP_ACT_KILL_PROCESS"},
    )
    for rules in ((narrow, wide), (wide, narrow)):
        assert verdict(profile(*rules), "dup", 3) == seccomp.KILL_PROCESS


def test_alternatives_are_tried_in_turn() -> None:
    rules = [allow("dup", index=0, op="SCMP_CMP_EQ", value=value) for value in (3, 5, 9)]
    assert [verdict(profile(*rules), "dup", value) == ALLOW for value in (2, 3, 5, 7, 9)] == [
        False,
        True,
        True,
        False,
        True,
    ]


def test_all_conditions_of_a_rule_must_hold() -> None:
    rule = allow("fchown")
    rule["args"] = [{"index": index, "value": index, "op": "SCMP_CMP_EQ"} for index in (1, 2)]
    assert verdict(profile(rule), "fchown", 0, 1, 2) == ALLOW
    assert verdict(profile(rule), "fchown", 0, 1, 3) == EPERM
    assert verdict(profile(rule), "fchown", 0, 2, 2) == EPERM


def test_random_profiles_agree_with_a_plain_reading() -> None:
    dice, names = random.Random(3), sorted(NATIVE)
    for _ in range(20):
        allowed = dice.sample(names, dice.randint(1, 300))
        code = compile_profile(profile(allow(*allowed))).code
        for name in dice.sample(names, 60):
            expected = ALLOW if name in allowed else EPERM
            if NATIVE[name] > max(NATIVE[one] for one in allowed):
                expected = ERRNO | ENOSYS
            assert evaluate(code, NATIVE[name]) == expected


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("seed", range(4))
def test_neighbours_and_architectures_that_share_code_keep_their_own_verdicts(table: str, seed: int) -> None:
    """Verdicts that change from number to number, so many that jumps do not reach from one end to the other."""
    dice = random.Random(seed)
    names = sorted(NATIVE | syscalls.numbers("i386") | syscalls.numbers("x32"))
    actions = ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRAP", "SCMP_ACT_KILL_PROCESS"][: 2 + seed % 3]
    chosen = {name: dice.choice(actions) for name in names if dice.random() < 0.7}
    code = compile_profile(profile(*({"names": [name], "action": chosen[name]} for name in chosen))).code
    expected = {
        number: ACTIONS[chosen[name]] if name in chosen else EPERM for name, number in syscalls.numbers(table).items()
    }
    highest = max(number for name, number in syscalls.numbers(table).items() if name in chosen)
    audit, bit = TABLES[table]
    for number in range(600):
        wanted = expected.get(number, EPERM) if number <= highest else ERRNO | ENOSYS
        assert evaluate(code, number | bit, (), audit) == wanted, number


@pytest.mark.parametrize(
    "made",
    [
        {},
        profile(default="SCMP_ACT_NOTIFY"),
        profile({"names": ["read"], "action": "SCMP_ACT_NOTIFY"}),
        profile({"names": ["read"], "action": "SCMP_ACT_FOO"}),
        profile(allow("read", index=6, op="SCMP_CMP_EQ", value=0)),
        profile(allow("read", index=0, op="SCMP_CMP_IS", value=0)),
        profile(allow("read", index=0, op="SCMP_CMP_EQ", value=-1)),
        profile(defaultErrnoRet=70000),
        profile(flags=["SECCOMP_FILTER_FLAG_NEW_LISTENER"]),
        profile(flags=["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"], listenerPath="/run/x"),
        profile({"names": ["write"], "action": "SCMP_ACT_NOTIFY"}, listenerPath="/run/x"),
        {**profile(), "architectures": ["X86"]},
        profile(*(allow("dup", index=0, op="SCMP_CMP_EQ", value=n) for n in range(3000))),
    ],
)
def test_what_cannot_be_expressed_is_an_error(made: Profile) -> None:
    with pytest.raises(ProfileError):
        compile_profile(made)


def test_names_that_do_not_exist_are_left_out_and_told() -> None:
    """Those of another architecture are no mistake: profiles are written for several."""
    compiled = compile_profile(profile(allow("read", "no_such_call", "s390_sthyi", "socketcall")))
    assert evaluate(compiled.code, NATIVE["read"]) == ALLOW
    assert compiled.unknown == ("no_such_call",)


ACTIONS = {
    "SCMP_ACT_KILL": seccomp.KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": seccomp.KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": seccomp.KILL_PROCESS,
    "SCMP_ACT_TRAP": seccomp.TRAP,
    "SCMP_ACT_ERRNO": ERRNO | 95,
    "SCMP_ACT_TRACE": seccomp.TRACE | 95,
    "SCMP_ACT_ALLOW": ALLOW,
    "SCMP_ACT_LOG": seccomp.LOG,
    "SCMP_ACT_NOTIFY": seccomp.NOTIFY,
}


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action(action: str) -> None:
    rule = {"names": ["read"], "action": action, "errnoRet": 95}
    compiled = compile_profile(profile(rule, listenerPath="/run/x"))
    assert evaluate(compiled.code, NATIVE["read"]) == ACTIONS[action]
    assert compiled.notifies == (action == "SCMP_ACT_NOTIFY")


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        (None, 4),
        ([], 0),
        (["SECCOMP_FILTER_FLAG_TSYNC"], 0),
        (["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"], 6),
    ],
)
def test_flags(flags: list[str] | None, value: int) -> None:
    """None means runc's default. TSYNC is for launchers with threads."""
    made = profile() if flags is None else profile(flags=flags)
    assert compile_profile(made).flags == value


def test_a_listener_can_be_waited_for_killably() -> None:
    rule = {"names": ["mknod"], "action": "SCMP_ACT_NOTIFY"}
    flags = ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]
    assert compile_profile(profile(rule, listenerPath="/run/x", flags=flags)).flags == 8 | 32


def test_calls_behind_a_multiplexer_follow_their_rule() -> None:
    """i386 programs reach socket(2) by socketcall(1, ...) too, semget(2) by ipc(2, ...) with a version above it."""
    i386 = syscalls.numbers("i386")
    denied = {"names": ["socket", "semget"], "action": "SCMP_ACT_ERRNO"}
    code = compile_profile(profile(denied, default="SCMP_ACT_ALLOW")).code
    answers = {
        ("socket", ()): EPERM,
        ("socketcall", (1,)): EPERM,
        ("socketcall", (2,)): ALLOW,
        ("ipc", (2,)): EPERM,
        ("ipc", (2 | 1 << 16,)): EPERM,
        ("ipc", (3,)): ALLOW,
    }
    for (name, arguments), expected in answers.items():
        assert evaluate(code, i386[name], arguments, AUDIT_I386) == expected, (name, arguments)


def test_a_rule_on_arguments_does_not_open_a_multiplexer() -> None:
    """socketcall has its arguments in memory: nobody can tell which family it asks for."""
    i386 = syscalls.numbers("i386")
    rule = allow("socket", index=0, op="SCMP_CMP_EQ", value=1)
    assert evaluate(compile_profile(profile(rule)).code, i386["socketcall"], (1,), AUDIT_I386) == EPERM
    denied = {**rule, "action": "SCMP_ACT_ERRNO"}
    code = compile_profile(profile(denied, default="SCMP_ACT_ALLOW")).code
    assert evaluate(code, i386["socketcall"], (1,), AUDIT_I386) == EPERM


FOREIGN = ("aarch64", "armv7l", "riscv64", "s390x", "ppc64le", "ppc64", "loongarch64", "mips64", "parisc64")
needs_libseccomp = pytest.mark.skipif(not seccomp_arch.available(), reason="libseccomp is not installed")


@needs_libseccomp
@pytest.mark.parametrize("machine", FOREIGN)
def test_other_machines_have_their_own_numbers_and_words(machine: str) -> None:
    """Low halves of arguments lie behind the high ones on big-endian machines; new calls have one number everywhere."""
    rules = (
        allow("read", "openat2", "exit"),
        allow("lseek", index=1, op="SCMP_CMP_GE", value=(1 << 32) + 5),
        allow("socket", index=0, op="SCMP_CMP_EQ", value=3),
    )
    for each in seccomp_arch.family(machine):
        made = {**profile(*rules), "architectures": [f"SCMP_ARCH_{each.name.upper()}"]}
        code = compile_profile(made, machine).code

        def ask(name: str, *arguments: int, each: seccomp_arch.Architecture = each, code: bytes = code) -> int:
            number = seccomp_arch.number(each, name)
            assert number is not None, name
            return evaluate(code, number, arguments, each.audit)

        assert ask("read") == ask("openat2") == ALLOW
        assert seccomp_arch.number(each, "openat2") == 437 + each.base
        assert ask("write") == EPERM
        assert evaluate(code, 599 + each.base, (), each.audit) == ERRNO | ENOSYS
        if each.wide:
            edge = (1 << 32) + 5
            assert [ask("lseek", 0, edge + more) for more in (-1, 0, 1 << 32)] == [EPERM, ALLOW, ALLOW]
        assert ask("socket", 3 | 1 << 40) == ALLOW and ask("socket", 4) == EPERM


@needs_libseccomp
def test_the_calls_that_arm_keeps_to_itself() -> None:
    """Their numbers are far above all others and do not make those known."""
    arm = seccomp_arch.ARCHITECTURES["arm"]
    code = compile_profile({**profile(allow("read", "set_tls")), "architectures": []}, "armv7l").code
    private = seccomp_arch.number(arm, "set_tls")
    assert private is not None and private > 0xF0000
    assert evaluate(code, private, (), arm.audit) == ALLOW
    assert evaluate(code, private + 1, (), arm.audit) == evaluate(code, 500, (), arm.audit) == ERRNO | ENOSYS


@needs_libseccomp
@pytest.mark.parametrize(
    "name", ["x86", "x86_64", "aarch64", "arm", "mips", "mipsel64n32", "riscv64", "s390", "ppc64le"]
)
def test_tokens_are_libseccomps(name: str) -> None:
    library = ctypes.CDLL("libseccomp.so.2")
    resolve = library.seccomp_arch_resolve_name
    resolve.restype = ctypes.c_uint32
    assert resolve(name.encode()) == seccomp_arch.ARCHITECTURES[name].token


@needs_libseccomp
@pytest.mark.parametrize("name", ["x86_64", "x86", "x32"])
def test_own_numbers_are_libseccomps(name: str) -> None:
    each, bit = seccomp_arch.ARCHITECTURES[name], syscalls.X32_BIT if name == "x32" else 0
    resolve = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name_arch
    for call in syscalls.numbers({"x86": "i386"}.get(name, name)):
        told = resolve(ctypes.c_uint32(each.token), call.encode())
        if told >= 0:
            assert told & ~bit == seccomp_arch.number(each, call), call


def test_the_filter_knows_whether_a_late_fork_survives_it() -> None:
    assert compile_profile(defaults.default_seccomp(())).lets_fork
    assert not compile_profile(profile(allow("read", "execve"))).lets_fork


def test_the_default_is_small_enough_to_load_fast() -> None:
    """limits.md 1b: loading time grows with the instructions; libseccomp needs 1001."""
    assert len(docker(*defaults.DEFAULT_CAPABILITIES)) // 8 < 250
