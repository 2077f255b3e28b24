"""The compiler against a plain reading of the profile: a wrong verdict is a hole or a broken program."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest

from bulkhead.linux import seccomp, syscalls
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
    tables = {"x86_64": (AUDIT_X86_64, 0), "x32": (AUDIT_X86_64, syscalls.X32_BIT), "i386": (AUDIT_I386, 0)}
    for name, (audit, bit) in tables.items():
        table = syscalls.numbers(name)
        allowed = {table[call] for call in made["syscalls"][0]["names"] if call in table}
        for number in range(600):
            expected = ALLOW if number in allowed else EPERM if number <= max(allowed) else ERRNO | ENOSYS
            assert evaluate(code, number | bit, (), audit) == expected, (name, number)


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
        profile(listenerPath="/run/x"),
        {**profile(), "architectures": ["X86"]},
        profile(*(allow("dup", index=0, op="SCMP_CMP_EQ", value=n) for n in range(3000))),
    ],
)
def test_what_cannot_be_expressed_is_an_error(made: Profile) -> None:
    with pytest.raises(ProfileError):
        compile_profile(made)


def test_names_that_do_not_exist_are_left_out() -> None:
    assert verdict(profile(allow("read", "no_such_call")), "read") == ALLOW


def test_the_filter_knows_whether_a_late_fork_survives_it() -> None:
    assert compile_profile(defaults.default_seccomp(())).lets_fork
    assert not compile_profile(profile(allow("read", "execve"))).lets_fork


def test_the_default_is_small_enough_to_load_fast() -> None:
    """limits.md 1b: loading time grows with the instructions; libseccomp needs 1001."""
    assert len(docker(*defaults.DEFAULT_CAPABILITIES)) // 8 < 800
