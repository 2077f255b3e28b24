"""What a limit becomes in each version's files (oci-runtime reference 4.1)."""

from __future__ import annotations

from typing import Any

import pytest

from bulkhead.linux.cgroup_limits import io_weight, v1_writes, v2_writes, weight_from_shares


def files(writes: Any) -> dict[str, str]:
    return {write.file: write.value for write in writes}


@pytest.mark.parametrize(
    ("shares", "weight"),
    [(2, 1), (10, 4), (100, 17), (256, 35), (512, 59), (1024, 100), (2048, 174), (10240, 639), (262144, 10000)],
)
def test_shares_become_the_weight_that_runc_and_crun_choose(shares: int, weight: int) -> None:
    assert weight_from_shares(shares) == weight


@pytest.mark.parametrize(("weight", "expected"), [(10, 1), (100, 910), (1000, 10000)])
def test_block_weights(weight: int, expected: int) -> None:
    assert io_weight(weight) == expected


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        ({"limit": 100, "swap": 300}, {"memory.max": "100", "memory.swap.max": "200"}),
        ({"limit": 100, "swap": 100}, {"memory.max": "100", "memory.swap.max": "0"}),
        ({"limit": 100, "swap": -1}, {"memory.max": "100", "memory.swap.max": "max"}),
        ({"limit": -1}, {"memory.max": "max", "memory.swap.max": "max"}),
        ({"limit": 100, "reservation": 50}, {"memory.max": "100", "memory.low": "50"}),
        ({}, {}),
    ],
)
def test_v2_counts_swap_without_memory(memory: dict[str, int], expected: dict[str, str]) -> None:
    assert files(v2_writes({"memory": memory})) == expected


@pytest.mark.parametrize("memory", [{"limit": 100, "swap": 50}, {"swap": 50}])
def test_v2_refuses_swap_that_makes_no_sense(memory: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        list(v2_writes({"memory": memory}))


@pytest.mark.parametrize(
    ("cpu", "expected"),
    [
        ({"quota": 50000, "period": 100000}, "50000 100000"),
        ({"quota": 50000}, "50000 100000"),
        ({"quota": -1}, "max 100000"),
        ({"period": 50000}, "max 50000"),
    ],
)
def test_v2_cpu_time(cpu: dict[str, int], expected: str) -> None:
    assert files(v2_writes({"cpu": cpu})) == {"cpu.max": expected}


@pytest.mark.parametrize(("limit", "expected"), [(-1, "max"), (0, "1"), (1, "1"), (100, "100")])
def test_process_counts(limit: int, expected: str) -> None:
    for writes in (v1_writes, v2_writes):
        assert files(writes({"pids": {"limit": limit}})) == {"pids.max": expected}


def test_zero_means_untouched() -> None:
    nothing = {
        "memory": {"limit": 0, "swap": 0},
        "cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": ""},
        "blockIO": {"weight": 0},
    }
    assert not list(v1_writes(nothing))
    assert not list(v2_writes(nothing))


def test_throttles() -> None:
    block = {"throttleReadBpsDevice": [{"major": 8, "minor": 16, "rate": 1024}]}
    assert files(v1_writes({"blockIO": block})) == {"blkio.throttle.read_bps_device": "8:16 1024"}
    assert files(v2_writes({"blockIO": block})) == {"io.max": "8:16 rbps=1024"}


def test_unified_is_for_v2_and_stays_in_the_directory() -> None:
    assert files(v2_writes({"unified": {"memory.high": "5"}})) == {"memory.high": "5"}
    with pytest.raises(ValueError):
        list(v1_writes({"unified": {"memory.high": "5"}}))
    with pytest.raises(ValueError):
        list(v2_writes({"unified": {"../memory.high": "5"}}))
