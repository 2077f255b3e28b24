"""What a limit becomes in each version's files (oci-runtime reference 4.1)."""

from __future__ import annotations

from typing import Any

import pytest

from bulkhead.linux.cgroup_limits import (
    Write,
    io_weight,
    undo_of,
    v1_writes,
    v2_writes,
    weight_from_shares,
    without_bfq,
)


def told(**files: str) -> Any:
    """A reader of control files that say this."""
    return lambda controller, file: files.get(file.replace(".", "_"))


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


@pytest.mark.parametrize("name", ["cgroup.procs", "cgroup.kill", "memory", "", "memory.max\n", "a/b.c"])
def test_unified_names_only_resources(name: str) -> None:
    with pytest.raises(ValueError):
        list(v2_writes({"unified": {name: "1"}}))


def test_a_period_alone_leaves_the_quota() -> None:
    assert files(v2_writes({"cpu": {"period": 50000}}, told(cpu_max="20000 100000"))) == {"cpu.max": "20000 50000"}
    assert files(v2_writes({"cpu": {"quota": 30000}}, told(cpu_max="20000 50000"))) == {"cpu.max": "30000 50000"}


SUM, PART = "memory.memsw.limit_in_bytes", "memory.limit_in_bytes"


@pytest.mark.parametrize(("swap", "first"), [(300, SUM), (-1, SUM), (150, PART)])
def test_v1_never_has_the_sum_below_the_part(swap: int, first: str) -> None:
    writes = list(v1_writes({"memory": {"limit": 100, "swap": swap}}, told(memory_limit_in_bytes="200")))
    assert writes[0].file == first


def test_v1_memory_without_end_frees_swap_too() -> None:
    assert files(v1_writes({"memory": {"limit": -1}})) == {
        "memory.memsw.limit_in_bytes": "-1",
        "memory.limit_in_bytes": "-1",
    }


@pytest.mark.parametrize(("usage", "refused"), [("99", False), ("100", True), ("101", True)])
def test_an_update_can_ask_for_room_first(usage: str, refused: bool) -> None:
    memory = {"memory": {"limit": 100, "checkBeforeUpdate": True}}
    for writes, now in ((v1_writes, told(memory_usage_in_bytes=usage)), (v2_writes, told(memory_current=usage))):
        if refused:
            with pytest.raises(OSError, match="current usage"):
                list(writes(memory, now))
        else:
            assert list(writes(memory, now))


@pytest.mark.parametrize("value", [-2, 101])
def test_swappiness_is_a_percentage(value: int) -> None:
    with pytest.raises(ValueError, match="valid range"):
        list(v1_writes({"memory": {"swappiness": value}}))
    assert not list(v1_writes({"memory": {"swappiness": -1}}))


def test_huge_pages_are_limited_in_use_and_in_reservation() -> None:
    asked = {"hugepageLimits": [{"pageSize": "2MB", "limit": 4096}]}
    assert files(v1_writes(asked)) == {
        "hugetlb.2MB.limit_in_bytes": "4096",
        "hugetlb.2MB.rsvd.limit_in_bytes": "4096",
    }
    assert files(v2_writes(asked)) == {"hugetlb.2MB.max": "4096", "hugetlb.2MB.rsvd.max": "4096"}


@pytest.mark.parametrize("size", ["2", "../2MB", "2mb", "2MB.x"])
def test_a_page_size_is_no_path(size: str) -> None:
    with pytest.raises(ValueError):
        list(v2_writes({"hugepageLimits": [{"pageSize": size, "limit": 1}]}))


def test_block_weights_for_all_and_for_one_device() -> None:
    block = {
        "blockIO": {"weight": 100, "weightDevice": [{"major": 8, "minor": 0, "weight": 500}, {"major": 8, "minor": 1}]}
    }
    assert [write.value for write in v1_writes(block)] == ["100", "8:0 500"]
    assert [(w.file, w.value) for w in map(without_bfq, v2_writes(block))] == [
        ("io.weight", "910"),
        ("io.weight", "8:0 4950"),
    ]
    for wrong in ({"weight": 5}, {"weight": 1001}, {"leafWeight": 10}):
        with pytest.raises(ValueError):
            list(v2_writes({"blockIO": wrong}))


def test_an_idle_group_has_no_weight() -> None:
    assert files(v2_writes({"cpu": {"idle": 1, "shares": 512}})) == {"cpu.idle": "1"}
    assert files(v2_writes({"cpu": {"idle": 0, "shares": 512}})) == {"cpu.idle": "0", "cpu.weight": "59"}


@pytest.mark.parametrize(
    ("file", "value", "before", "back"),
    [
        ("memory.max", "100", "max\n", "max"),
        ("memory.oom_control", "1", "oom_kill_disable 0\nunder_oom 0\n", "0"),
        ("io.max", "8:0 rbps=5", "8:16 rbps=1 wbps=max\n8:0 rbps=9 wbps=max riops=max wiops=max\n",
         "8:0 rbps=9 wbps=max riops=max wiops=max"),
        ("io.max", "8:0 rbps=5", "", "8:0 rbps=max wbps=max riops=max wiops=max"),
        ("blkio.throttle.read_bps_device", "8:0 5", "", "8:0 0"),
        ("io.bfq.weight", "100", "default 50\n8:0 10\n", "default 50"),
        ("cpuset.cpus", "0", "\n", ""),
    ],
)  # fmt: skip
def test_what_puts_a_file_back(file: str, value: str, before: str, back: str) -> None:
    assert undo_of(Write(controller="x", file=file, value=value), before).value == back
