"""OCI LinuxResources as writes to control files: functions of the resources and of what the files say now.

Facts: oci-runtime reference section 4.1. A number that is absent or zero leaves the file alone, -1 means
no limit. Devices are not here (cgroup_devices): they are rules, not values. ValueError is a request that cannot
be expressed, OSError one that the present usage forbids.
"""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Resources = Mapping[str, Any]
# What a controller's file says now; None for a group or file that is not there.
Now = Callable[[str, str], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """`value` into `file` of the `controller`'s directory; `optional` where a kernel without the file does as asked."""

    controller: str
    file: str
    value: str
    optional: bool = False


def _fresh(controller: str, file: str) -> str | None:
    return None


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


def v1_writes(resources: Resources, now: Now = _fresh) -> Iterator[Write]:
    """In an order that the kernel accepts. ValueError for what v1 does not have."""
    if resources.get("unified"):
        raise ValueError("invalid configuration: unified resources need cgroup v2")
    yield from _pids(resources)
    yield from _v1_memory(resources.get("memory") or {}, now)
    yield from _v1_cpu(resources.get("cpu") or {})
    yield from _v1_block(resources.get("blockIO") or {})
    yield from _hugetlb(resources, "limit_in_bytes")
    network = resources.get("network") or {}
    if network.get("classID"):
        yield Write(controller="net_cls", file="net_cls.classid", value=str(network["classID"]))
    for entry in network.get("priorities") or ():
        yield Write(controller="net_prio", file="net_prio.ifpriomap", value=f"{entry['name']} {entry['priority']}")
    yield from _rdma(resources)


def v2_writes(resources: Resources, now: Now = _fresh) -> Iterator[Write]:
    """In runc's order. ValueError for combinations that cannot be expressed."""
    yield from _pids(resources)
    yield from _v2_memory(resources.get("memory") or {}, now)
    yield from _v2_block(resources.get("blockIO") or {})
    yield from _v2_cpu(resources.get("cpu") or {}, now)
    yield from _hugetlb(resources, "max")
    yield from _rdma(resources)
    for name, value in (resources.get("unified") or {}).items():
        yield _unified(name, str(value))


# The group's own machinery is not a resource: who may write here could move or kill processes by an update.
_UNIFIED = re.compile(r"(?!cgroup\.)[a-z0-9_]+\.[A-Za-z0-9_.-]+|cgroup\.max\.(depth|descendants)")


def _unified(name: str, value: str) -> Write:
    if not _UNIFIED.fullmatch(name):
        raise ValueError(f"unified resource {name!r} must be a file name of a controller")
    return Write(controller=name.partition(".")[0], file=name, value=value)


def _pids(resources: Resources) -> Iterator[Write]:
    limit = (resources.get("pids") or {}).get("limit")
    if limit is not None:
        yield Write(controller="pids", file="pids.max", value="max" if limit < 0 else str(max(limit, 1)))


def _rdma(resources: Resources) -> Iterator[Write]:
    for device, limits in (resources.get("rdma") or {}).items():
        keys = {"hca_handle": limits.get("hcaHandles"), "hca_object": limits.get("hcaObjects")}
        parts = [f"{key}={value}" for key, value in keys.items() if value is not None]
        yield Write(controller="rdma", file="rdma.max", value=" ".join([device, *parts]))


_PAGE_SIZE = re.compile(r"[0-9]+(KB|MB|GB)")


def _hugetlb(resources: Resources, suffix: str) -> Iterator[Write]:
    """The limit on use faults with SIGBUS; the one on reservations (Linux 5.7) already refuses the mapping."""
    for entry in resources.get("hugepageLimits") or ():
        size, limit = entry["pageSize"], str(entry["limit"])
        if not _PAGE_SIZE.fullmatch(size):
            raise ValueError(f"huge page size {size!r} is not a number of KB, MB or GB")
        yield Write(controller="hugetlb", file=f"hugetlb.{size}.{suffix}", value=limit)
        yield Write(controller="hugetlb", file=f"hugetlb.{size}.rsvd.{suffix}", value=limit, optional=True)


# ---- memory ----


def _v1_memory(memory: Resources, now: Now) -> Iterator[Write]:
    _check_usage(memory, "memory.usage_in_bytes", now)
    yield from _v1_memory_and_swap(memory, now)
    names = {"reservation": "memory.soft_limit_in_bytes", "kernelTCP": "memory.kmem.tcp.limit_in_bytes"}
    for key, file in names.items():
        if memory.get(key):
            yield Write(controller="memory", file=file, value=str(memory[key]))
    swappiness = memory.get("swappiness")
    if swappiness is not None and swappiness != -1:
        if not 0 <= swappiness <= 100:
            raise ValueError(f"invalid memory swappiness value: {swappiness} (valid range is 0-100)")
        yield Write(controller="memory", file="memory.swappiness", value=str(swappiness))
    if memory.get("disableOOMKiller"):
        yield Write(controller="memory", file="memory.oom_control", value="1")


def _v1_memory_and_swap(memory: Resources, now: Now) -> Iterator[Write]:
    """memory+swap may never be below memory: a sum above the present limit goes first, a lower one last."""
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    told = bool(swap)
    if limit == -1 and not swap:
        swap = -1
    writes = [
        Write(controller="memory", file=file, value=str(value), optional=optional)
        for file, value, optional in (
            ("memory.limit_in_bytes", limit, False),
            ("memory.memsw.limit_in_bytes", swap, not told),
        )
        if value
    ]
    if len(writes) > 1 and (swap == -1 or swap > int(now("memory", "memory.limit_in_bytes") or 0) > 0):
        writes.reverse()
    yield from writes


def _check_usage(memory: Resources, file: str, now: Now) -> None:
    limit = memory.get("limit") or 0
    if not memory.get("checkBeforeUpdate") or limit <= 0:
        return
    usage = int(now("memory", file) or 0)
    if usage >= limit:
        raise OSError(errno.EBUSY, f"rejecting memory limit {limit}: current usage is {usage}")


def _limit(value: int) -> str:
    return "max" if value < 0 else str(value)


def _v2_memory(memory: Resources, now: Now) -> Iterator[Write]:
    _check_usage(memory, "memory.current", now)
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if swap or limit < 0:
        value = _swap_alone(limit, swap)
        yield Write(controller="memory", file="memory.swap.max", value=value, optional=value in ("0", "max"))
    if limit:
        yield Write(controller="memory", file="memory.max", value=_limit(limit))
    if memory.get("reservation"):
        yield Write(controller="memory", file="memory.low", value=_limit(memory["reservation"]))


def _swap_alone(limit: int, swap: int) -> str:
    """v1 and OCI count memory and swap together, v2 counts swap alone."""
    if swap < 0 or (limit < 0 and swap == 0):
        return "max"
    if limit <= 0:
        raise ValueError("unable to set swap limit without memory limit")
    if swap < limit:
        raise ValueError("memory+swap limit should be >= memory limit")
    return str(swap - limit)


# ---- cpu ----

_V1_CPU = {
    "shares": "cpu.shares",
    "realtimePeriod": "cpu.rt_period_us",
    "realtimeRuntime": "cpu.rt_runtime_us",
    "period": "cpu.cfs_period_us",
    "burst": "cpu.cfs_burst_us",
    "quota": "cpu.cfs_quota_us",
}

# A period or burst that does not fit the quota as it is fits the one that is to come.
AFTER_QUOTA = {
    "cpu.cfs_period_us": "cpu.cfs_quota_us",
    "cpu.cfs_burst_us": "cpu.cfs_quota_us",
    "cpu.max.burst": "cpu.max",
}


def _v1_cpu(cpu: Resources) -> Iterator[Write]:
    for key, file in _V1_CPU.items():
        value = cpu.get(key)
        if value or (key == "burst" and value is not None):
            yield Write(controller="cpu", file=file, value=str(value), optional=not value)
    if cpu.get("idle") is not None:
        yield Write(controller="cpu", file="cpu.idle", value=str(cpu["idle"]))
    yield from _cpuset(cpu)


def _v2_cpu(cpu: Resources, now: Now) -> Iterator[Write]:
    if cpu.get("idle") is not None:
        yield Write(controller="cpu", file="cpu.idle", value=str(cpu["idle"]))
    if cpu.get("shares") and not cpu.get("idle"):  # an idle group has no weight to set
        yield Write(controller="cpu", file="cpu.weight", value=str(weight_from_shares(cpu["shares"])))
    if (burst := cpu.get("burst")) is not None:
        yield Write(controller="cpu", file="cpu.max.burst", value=str(burst), optional=not burst)
    quota, period = cpu.get("quota") or 0, cpu.get("period") or 0
    if quota or period:
        yield Write(controller="cpu", file="cpu.max", value=_cpu_max(quota, period, now("cpu", "cpu.max")))
    yield from _cpuset(cpu)


def _cpu_max(quota: int, period: int, now: str | None) -> str:
    """The half that is not told stays as it is."""
    present_quota, present_period = (now or "max 100000").split()
    told = present_quota if not quota else "max" if quota < 0 else str(quota)
    return f"{told} {period or present_period}"


def _cpuset(cpu: Resources) -> Iterator[Write]:
    for key in ("cpus", "mems"):
        if cpu.get(key):
            yield Write(controller="cpuset", file=f"cpuset.{key}", value=str(cpu[key]))


# ---- block devices ----

# OCI's throttle lists: (v1 file, key in v2's io.max)
_THROTTLES = {
    "throttleReadBpsDevice": ("blkio.throttle.read_bps_device", "rbps"),
    "throttleWriteBpsDevice": ("blkio.throttle.write_bps_device", "wbps"),
    "throttleReadIOPSDevice": ("blkio.throttle.read_iops_device", "riops"),
    "throttleWriteIOPSDevice": ("blkio.throttle.write_iops_device", "wiops"),
}


def _device(entry: Resources) -> str:
    return f"{int(entry['major'])}:{int(entry['minor'])}"


def _weights(block: Resources) -> Iterator[tuple[str, int]]:
    """("", weight) for all devices, then ("major:minor", weight); 0 is no weight."""
    weights = [("", block.get("weight") or 0)]
    weights += [(_device(entry), entry.get("weight") or 0) for entry in block.get("weightDevice") or ()]
    leaves = [entry.get("leafWeight") for entry in block.get("weightDevice") or ()]
    if block.get("leafWeight") or any(leaves):
        raise ValueError("block IO leafWeight is gone from Linux (5.0)")
    for device, weight in weights:
        if weight and not 10 <= weight <= 1000:
            raise ValueError(f"block IO weight {weight} is not between 10 and 1000")
        if weight:
            yield device, weight


def _v1_block(block: Resources) -> Iterator[Write]:
    for device, weight in _weights(block):
        file = "blkio.bfq.weight_device" if device else "blkio.bfq.weight"
        yield Write(controller="blkio", file=file, value=f"{device} {weight}".strip())
    for key, (file, _) in _THROTTLES.items():
        for entry in block.get(key) or ():
            yield Write(controller="blkio", file=file, value=f"{_device(entry)} {entry['rate']}")


def _v2_block(block: Resources) -> Iterator[Write]:
    for device, weight in _weights(block):
        yield Write(controller="io", file="io.bfq.weight", value=f"{device} {weight}".strip())
    for key, (_, name) in _THROTTLES.items():
        for entry in block.get(key) or ():
            yield Write(controller="io", file="io.max", value=f"{_device(entry)} {name}={entry['rate'] or 'max'}")


def without_bfq(write: Write) -> Write:
    """The same wish where the bfq scheduler is not loaded: v1's plain weight, v2's io.weight on its own scale."""
    if write.controller == "blkio":
        return Write(controller="blkio", file=write.file.replace(".bfq", ""), value=write.value)
    *device, weight = write.value.split()
    return Write(controller="io", file="io.weight", value=" ".join([*device, str(io_weight(int(weight)))]))


# ---- back again ----


def undo_of(write: Write, before: str) -> Write:
    """What puts a file back that read `before`. Files of a line per device get their device's line back."""
    value = before.strip()
    if write.file == "memory.oom_control":
        value = str(dict(line.split() for line in value.splitlines()).get("oom_kill_disable", 0))
    elif write.file in _KEYED:
        key = write.value.split()[0]
        lines = (line.split() for line in value.splitlines())
        value = " ".join(next((words for words in lines if words[0] == key), [key, *_KEYED[write.file].split()]))
    elif value.startswith("default "):
        value = value.splitlines()[0]
    return Write(controller=write.controller, file=write.file, value=value)


# Files with a line per device, and what a device without a line has.
_KEYED = {
    **{file: "0" for file, _ in _THROTTLES.values()},
    "io.max": "rbps=max wbps=max riops=max wiops=max",
    "rdma.max": "hca_handle=max hca_object=max",
    "net_prio.ifpriomap": "0",
    "blkio.bfq.weight_device": "0",
}
