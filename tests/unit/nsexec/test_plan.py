"""The plan crosses from Python to a privileged program: what is not exactly a plan must be refused."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import pytest

from bulkhead.nsexec import check_plan
from bulkhead.nsexec.plan import Flag, Plan
from tests.unit.nsexec.plans import FULL, LEAST

PLANS = {"full": FULL, "least": LEAST}


def with_length(data: bytes) -> bytes:
    return data[:8] + struct.pack("<I", len(data)) + data[12:]


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_the_stage_reads_what_python_writes(plan: Plan) -> None:
    assert check_plan(plan.encode())


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_every_truncation_is_refused(plan: Plan) -> None:
    data = plan.encode()
    for length in range(len(data)):
        assert not check_plan(data[:length]), length
        if length >= 16:
            assert not check_plan(with_length(data[:length])), length


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_trailing_bytes_are_refused(plan: Plan) -> None:
    data = plan.encode()
    assert not check_plan(data + b"\0")
    assert not check_plan(with_length(data + b"\0"))


def test_random_damage_is_survived() -> None:
    """The same in C under the sanitizers: test_plan_sanitized."""
    data, dice = bytearray(FULL.encode()), random.Random(7)
    for _ in range(5000):
        broken = bytearray(data)
        for _ in range(dice.randint(1, 3)):
            broken[dice.randrange(len(broken))] = dice.randrange(256)
        check_plan(bytes(broken))


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, b"XXXX"), (4, b"\x7f\x00"), (6, b"\x00\x00"), (12, b"\1\0\0\0")],
    ids=["magic", "version", "no sections", "reserved"],
)
def test_a_wrong_header_is_refused(offset: int, value: bytes) -> None:
    data = LEAST.encode()
    assert not check_plan(data[:offset] + value + data[offset + len(value) :])


def test_a_plan_without_what_its_mode_needs_is_refused() -> None:
    """A container has a root; only a process that joins one has none."""
    assert not check_plan(replace(LEAST, flags=Flag(0)).encode())


def test_unknown_flags_are_refused() -> None:
    assert not check_plan(replace(LEAST, flags=LEAST.flags | 1 << 40).encode())


def test_a_nul_inside_a_text_never_leaves_python() -> None:
    for plan in (replace(LEAST, argv=("a\0b",)), replace(LEAST, env=("A=\0",)), replace(LEAST, cwd="/\0")):
        with pytest.raises(ValueError, match="NUL"):
            plan.encode()


def test_a_plan_beyond_the_limit_never_leaves_python() -> None:
    with pytest.raises(ValueError, match="limit"):
        replace(LEAST, argv=("x" * 1_000_000,) * 17).encode()


@pytest.mark.parametrize("size", [65535, 65536, 65537, 1_000_000])
def test_long_texts_arrive_whole(size: int) -> None:
    """runc once cut such a length to 16 bits (CVE-2021-43784)."""
    assert check_plan(replace(LEAST, argv=("x", "y" * size), env=(f"A={'z' * size}",)).encode())


def test_bytes_that_are_no_utf_8_pass_unchanged() -> None:
    name = b"\xff\xfe".decode("utf-8", "surrogateescape")
    assert b"\xff\xfe\0" in replace(LEAST, argv=(name,)).encode()
