"""OCI LinuxResources as writes to control files: pure functions, one per cgroup version.

Facts: oci-runtime reference section 4.1. A number that is absent or zero leaves the file alone, -1 means
no limit. Devices are not here (cgroup_devices): they are rules, not values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Resources = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """`value` into `file` of the `controller`'s directory."""

    controller: str
    file: str
    value: str


def weight_from_shares(shares: int) -> int:
    """cgroup v2 weight (1..10000) that stands for v1 shares (2..262144), as runc and crun compute it since 2025."""
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    log = math.log2(shares)
    return math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34))


def io_weight(weight: int) -> int:
    """cgroup v2 io.weight (1..10000) for a v1 blkio weight (10..1000)."""
    return 1 + (weight - 10) * 9999 // 990


def v1_writes(resources: Resources) -> Iterator[Write]:
    """In an order that the kernel accepts on a fresh group. ValueError for what v1 does not have."""
    if resources.get("unified"):
        raise ValueError("unified resources need cgroup v2")
    yield from _v1_pids(resources)
    yield from _v1_memory(resources.get("memory") or {})
    yield from _v1_cpu(resources.get("cpu") or {})
    yield from _v1_block(resources.get("blockIO") or {})
    for entry in resources.get("hugepageLimits") or ():
        yield Write(controller="hugetlb", file=f"hugetlb.{entry['pageSize']}.limit_in_bytes", value=str(entry["limit"]))
    network = resources.get("network") or {}
    if network.get("classID"):
        yield Write(controller="net_cls", file="net_cls.classid", value=str(network["classID"]))
    for entry in network.get("priorities") or ():
        yield Write(controller="net_prio", file="net_prio.ifpriomap", value=f"{entry['name']} {entry['priority']}")
    yield from _rdma(resources)


def v2_writes(resources: Resources) -> Iterator[Write]:
    """In runc's order. ValueError for combinations that cannot be expressed."""
    yield from _v1_pids(resources)
    yield from _v2_memory(resources.get("memory") or {})
    yield from _v2_block(resources.get("blockIO") or {})
    yield from _v2_cpu(resources.get("cpu") or {})
    for entry in resources.get("hugepageLimits") or ():
        yield Write(controller="hugetlb", file=f"hugetlb.{entry['pageSize']}.max", value=str(entry["limit"]))
    yield from _rdma(resources)
    for name, value in (resources.get("unified") or {}).items():
        if "/" in name or not name:
            raise ValueError(f"unified resource {name!r} is not a file name")
        yield Write(controller=name.partition(".")[0], file=name, value=str(value))


def _v1_pids(resources: Resources) -> Iterator[Write]:
    limit = (resources.get("pids") or {}).get("limit")
    if limit is not None:
        yield Write(controller="pids", file="pids.max", value="max" if limit < 0 else str(max(limit, 1)))


def _rdma(resources: Resources) -> Iterator[Write]:
    for device, limits in (resources.get("rdma") or {}).items():
        keys = {"hca_handle": limits.get("hcaHandles"), "hca_object": limits.get("hcaObjects")}
        parts = [f"{key}={value}" for key, value in keys.items() if value is not None]
        yield Write(controller="rdma", file="rdma.max", value=" ".join([device, *parts]))


def _v1_memory(memory: Resources) -> Iterator[Write]:
    names = {
        "limit": "memory.limit_in_bytes",
        "swap": "memory.memsw.limit_in_bytes",
        "reservation": "memory.soft_limit_in_bytes",
        "kernelTCP": "memory.kmem.tcp.limit_in_bytes",
    }
    for key, file in names.items():
        if memory.get(key):
            yield Write(controller="memory", file=file, value=str(memory[key]))
    if memory.get("swappiness") is not None:
        yield Write(controller="memory", file="memory.swappiness", value=str(memory["swappiness"]))
    if memory.get("disableOOMKiller"):
        yield Write(controller="memory", file="memory.oom_control", value="1")


def _v1_cpu(cpu: Resources) -> Iterator[Write]:
    names = {
        "shares": "cpu.shares",
        "period": "cpu.cfs_period_us",
        "quota": "cpu.cfs_quota_us",
        "burst": "cpu.cfs_burst_us",
        "realtimePeriod": "cpu.rt_period_us",
        "realtimeRuntime": "cpu.rt_runtime_us",
    }
    for key, file in names.items():
        if cpu.get(key):
            yield Write(controller="cpu", file=file, value=str(cpu[key]))
    if cpu.get("idle") is not None:
        yield Write(controller="cpu", file="cpu.idle", value=str(cpu["idle"]))
    yield from _cpuset(cpu)


def _cpuset(cpu: Resources) -> Iterator[Write]:
    for key in ("cpus", "mems"):
        if cpu.get(key):
            yield Write(controller="cpuset", file=f"cpuset.{key}", value=str(cpu[key]))


# OCI's throttle lists: (v1 file, key in v2's io.max)
_THROTTLES = {
    "throttleReadBpsDevice": ("blkio.throttle.read_bps_device", "rbps"),
    "throttleWriteBpsDevice": ("blkio.throttle.write_bps_device", "wbps"),
    "throttleReadIOPSDevice": ("blkio.throttle.read_iops_device", "riops"),
    "throttleWriteIOPSDevice": ("blkio.throttle.write_iops_device", "wiops"),
}


def _device(entry: Resources) -> str:
    return f"{entry['major']}:{entry['minor']}"


def _v1_block(block: Resources) -> Iterator[Write]:
    for key in ("leafWeight",):
        if block.get(key):
            raise ValueError(f"block IO {key} is gone from Linux")
    if block.get("weight"):
        yield Write(controller="blkio", file="blkio.bfq.weight", value=str(block["weight"]))
    for entry in block.get("weightDevice") or ():
        value = f"{_device(entry)} {entry['weight']}"
        yield Write(controller="blkio", file="blkio.bfq.weight_device", value=value)
    for key, (file, _) in _THROTTLES.items():
        for entry in block.get(key) or ():
            yield Write(controller="blkio", file=file, value=f"{_device(entry)} {entry['rate']}")


def _limit(value: int) -> str:
    return "max" if value < 0 else str(value)


def _v2_memory(memory: Resources) -> Iterator[Write]:
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if limit:
        yield Write(controller="memory", file="memory.max", value=_limit(limit))
    if swap or limit < 0:
        yield Write(controller="memory", file="memory.swap.max", value=_swap_alone(limit, swap))
    if memory.get("reservation"):
        yield Write(controller="memory", file="memory.low", value=_limit(memory["reservation"]))


def _swap_alone(limit: int, swap: int) -> str:
    """v1 and OCI count memory and swap together, v2 counts swap alone."""
    if swap < 0 or (limit < 0 and swap == 0):
        return "max"
    if limit <= 0:
        raise ValueError("a swap limit needs a memory limit")
    if swap < limit:
        raise ValueError("the memory+swap limit is below the memory limit")
    return str(swap - limit)


def _v2_cpu(cpu: Resources) -> Iterator[Write]:
    if cpu.get("idle") is not None:
        yield Write(controller="cpu", file="cpu.idle", value=str(cpu["idle"]))
    if cpu.get("shares") and not cpu.get("idle"):
        yield Write(controller="cpu", file="cpu.weight", value=str(weight_from_shares(cpu["shares"])))
    quota, period = cpu.get("quota") or 0, cpu.get("period") or 0
    if quota or period:
        value = f"{quota if quota > 0 else 'max'} {period or 100000}"
        yield Write(controller="cpu", file="cpu.max", value=value)
    if cpu.get("burst"):
        yield Write(controller="cpu", file="cpu.max.burst", value=str(cpu["burst"]))
    yield from _cpuset(cpu)


def _v2_block(block: Resources) -> Iterator[Write]:
    if block.get("weight"):
        yield Write(controller="io", file="io.bfq.weight", value=str(block["weight"]))
    for entry in block.get("weightDevice") or ():
        yield Write(controller="io", file="io.bfq.weight", value=f"{_device(entry)} {entry['weight']}")
    for key, (_, name) in _THROTTLES.items():
        for entry in block.get(key) or ():
            yield Write(controller="io", file="io.max", value=f"{_device(entry)} {name}={entry['rate']}")
