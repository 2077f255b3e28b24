"""What a cgroup has used, as one snapshot with the same fields for v1 and v2.

Times are nanoseconds, sizes bytes. None is a figure that this kernel or version does not have; a limit of None
is no limit. Sources: Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/{memory,cpuacct,blkio-controller}.rst.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bulkhead.linux.cgroup_files import read_number, read_rows, read_table

# The directory of a controller's files, or None when it is not mounted.
Directories = Callable[[str], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """One file of pressure stall information: share of time in percent, stalled time in microseconds."""

    some: Mapping[str, float]
    full: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """`per_cpu` is v1's alone, as (total, user, kernel) of each possible CPU."""

    total: int = 0
    user: int = 0
    kernel: int = 0
    per_cpu: tuple[tuple[int, int, int], ...] = ()
    periods: int = 0
    throttled_periods: int = 0
    throttled: int = 0
    pressure: Pressure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """Usage of one resource. v2 has no `failed` (attempts over the limit) but counts them as events."""

    usage: int = 0
    peak: int | None = None
    limit: int | None = None
    failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """`swap` is memory+swap on v1 and swap alone on v2, as the kernel counts them; `detail` is memory.stat."""

    memory: Counter
    swap: Counter | None = None
    kernel: Counter | None = None
    kernel_tcp: Counter | None = None
    detail: Mapping[str, int]
    events: Mapping[str, int]
    pressure: Pressure | None = None

    @property
    def cache(self) -> int:
        return self.detail.get("cache", self.detail.get("file", 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class IoRow:
    """`op` is Read, Write, Sync, Async, Discard or Total; v2 has Read, Write and Discard."""

    major: int
    minor: int
    op: str
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Io:
    service_bytes: tuple[IoRow, ...] = ()
    serviced: tuple[IoRow, ...] = ()
    pressure: Pressure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """One moment. `pids` and `memory` are None where their controller is not there."""

    cpu: Cpu
    memory: Memory | None
    pids: Counter | None
    io: Io
    hugetlb: Mapping[str, Counter]
    cpus: str = ""
    mems: str = ""


def read_v1(directories: Directories) -> Stats:
    return Stats(
        cpu=_v1_cpu(directories("cpu"), directories("cpuacct")),
        memory=_v1_memory(directories("memory")),
        pids=_pids(directories("pids")),
        io=_v1_io(directories("blkio")),
        hugetlb=_hugetlb(directories("hugetlb"), _V1_HUGETLB),
        cpus=_cpuset(directories("cpuset"), "cpuset.cpus"),
        mems=_cpuset(directories("cpuset"), "cpuset.mems"),
    )


def read_v2(directory: str) -> Stats:
    return Stats(
        cpu=_v2_cpu(directory),
        memory=_v2_memory(directory),
        pids=_pids(directory),
        io=_v2_io(directory),
        hugetlb=_hugetlb(directory, _V2_HUGETLB),
        cpus=_cpuset(directory, "cpuset.cpus"),
        mems=_cpuset(directory, "cpuset.mems"),
    )


def _pressure(directory: str, file: str) -> Pressure | None:
    """None without CONFIG_PSI, and where reading is refused because it is switched off."""
    rows = {row[0]: [word.partition("=") for word in row[1:]] for row in read_rows(directory, file)}
    figures = {kind: {key: float(value) for key, _, value in words} for kind, words in rows.items()}
    return Pressure(some=figures.get("some", {}), full=figures.get("full", {})) if rows else None


# ---- cpu ----


def _v1_cpu(cpu: str | None, account: str | None) -> Cpu:
    split, throttled = read_table(account, "cpuacct.stat"), read_table(cpu, "cpu.stat")
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return Cpu(
        total=read_number(account, "cpuacct.usage") or 0,
        user=split.get("user", 0) * tick,
        kernel=split.get("system", 0) * tick,
        per_cpu=_per_cpu(account),
        periods=throttled.get("nr_periods", 0),
        throttled_periods=throttled.get("nr_throttled", 0),
        throttled=throttled.get("throttled_time", 0),
    )


def _per_cpu(account: str | None) -> tuple[tuple[int, int, int], ...]:
    """cpuacct.usage_all: "cpu user system" and a line for each; cpuacct.usage_percpu knows the sum."""
    totals = [int(word) for row in read_rows(account, "cpuacct.usage_percpu") for word in row]
    rows = [row for row in read_rows(account, "cpuacct.usage_all") if row[0].isdigit()]
    split = {int(row[0]): (int(row[1]), int(row[2])) for row in rows if len(row) == 3}
    return tuple((total, *split.get(index, (0, 0))) for index, total in enumerate(totals))


def _v2_cpu(directory: str) -> Cpu:
    table = read_table(directory, "cpu.stat")
    return Cpu(
        total=table.get("usage_usec", 0) * 1000,
        user=table.get("user_usec", 0) * 1000,
        kernel=table.get("system_usec", 0) * 1000,
        periods=table.get("nr_periods", 0),
        throttled_periods=table.get("nr_throttled", 0),
        throttled=table.get("throttled_usec", 0) * 1000,
        pressure=_pressure(directory, "cpu.pressure"),
    )


# ---- memory ----

_NO_V1_LIMIT = 1 << 62  # v1 says "no limit" as the largest multiple of a page


def _v1_counter(directory: str, name: str) -> Counter | None:
    usage = read_number(directory, f"{name}.usage_in_bytes")
    if usage is None:
        return None
    limit = read_number(directory, f"{name}.limit_in_bytes")
    return Counter(
        usage=usage,
        peak=read_number(directory, f"{name}.max_usage_in_bytes"),
        limit=None if limit is None or limit >= _NO_V1_LIMIT else limit,
        failed=read_number(directory, f"{name}.failcnt") or 0,
    )


def _v1_memory(directory: str | None) -> Memory | None:
    if directory is None:
        return None
    return Memory(
        memory=_v1_counter(directory, "memory") or Counter(),
        swap=_v1_counter(directory, "memory.memsw"),
        kernel=_v1_counter(directory, "memory.kmem"),
        kernel_tcp=_v1_counter(directory, "memory.kmem.tcp"),
        detail=read_table(directory, "memory.stat"),
        events=read_table(directory, "memory.oom_control"),
    )


def _v2_counter(directory: str, name: str, failures: Mapping[str, int]) -> Counter | None:
    usage = read_number(directory, f"{name}.current")
    if usage is None:
        return None
    return Counter(
        usage=usage,
        peak=read_number(directory, f"{name}.peak"),
        limit=read_number(directory, f"{name}.max"),
        failed=failures.get("max", 0),
    )


def _v2_memory(directory: str) -> Memory | None:
    events = read_table(directory, "memory.events")
    memory = _v2_counter(directory, "memory", events)
    if memory is None:
        return None
    detail = read_table(directory, "memory.stat")
    return Memory(
        memory=memory,
        swap=_v2_counter(directory, "memory.swap", read_table(directory, "memory.swap.events")),
        kernel=Counter(usage=detail["kernel"]) if "kernel" in detail else None,
        detail=detail,
        events=events,
        pressure=_pressure(directory, "memory.pressure"),
    )


# ---- processes, huge pages, RDMA, CPU sets ----


def _pids(directory: str | None) -> Counter | None:
    current = read_number(directory, "pids.current")
    if current is None:
        return None
    events = read_table(directory, "pids.events")
    return Counter(usage=current, limit=read_number(directory, "pids.max"), failed=events.get("max", 0))


_V1_HUGETLB = ("usage_in_bytes", "max_usage_in_bytes", "limit_in_bytes", "failcnt")
_V2_HUGETLB = ("current", "peak", "max", "")


def _hugetlb(directory: str | None, files: tuple[str, str, str, str]) -> dict[str, Counter]:
    """By page size as the kernel spells it: 2MB, 1GB."""
    found = dict[str, Counter]()
    for size in _page_sizes(directory, files[0]):
        usage, peak, limit, failed = (read_number(directory, f"hugetlb.{size}.{name}") for name in files)
        if not files[3]:
            failed = read_table(directory, f"hugetlb.{size}.events").get("max")
        most = None if limit is None or limit >= _NO_V1_LIMIT else limit
        found[size] = Counter(usage=usage or 0, peak=peak, limit=most, failed=failed or 0)
    return found


def _page_sizes(directory: str | None, suffix: str) -> list[str]:
    if directory is None:
        return []
    try:
        names = os.listdir(directory)  # noqa: PTH208
    except OSError:
        return []
    parts = (name.split(".") for name in names if name.startswith("hugetlb."))
    return sorted(part[1] for part in parts if len(part) == 3 and part[2] == suffix)


def _cpuset(directory: str | None, file: str) -> str:
    rows = read_rows(directory, file)
    return rows[0][0] if rows else ""


# ---- block devices ----


def _v1_io(directory: str | None) -> Io:
    """With the bfq scheduler its own counters, else those of the throttling layer, which see everything."""
    return Io(
        service_bytes=_v1_rows(directory, "io_service_bytes_recursive"),
        serviced=_v1_rows(directory, "io_serviced_recursive"),
    )


def _v1_rows(directory: str | None, name: str) -> tuple[IoRow, ...]:
    for kind in ("blkio.bfq", "blkio.throttle"):
        rows = [row for row in read_rows(directory, f"{kind}.{name}") if len(row) == 3]
        if rows:
            return tuple(_row(row[0], row[1], int(row[2])) for row in rows)
    return ()


def _row(device: str, op: str, value: int) -> IoRow:
    major, _, minor = device.partition(":")
    return IoRow(major=int(major), minor=int(minor), op=op, value=value)


_V2_BYTES = {"rbytes": "Read", "wbytes": "Write", "dbytes": "Discard"}
_V2_OPERATIONS = {"rios": "Read", "wios": "Write", "dios": "Discard"}


def _v2_io(directory: str) -> Io:
    """io.stat: "8:0 rbytes=512 wbytes=0 ...". Devices without any transfer may be there with no pairs."""
    rows = [
        (row[0], key, int(value))
        for row in read_rows(directory, "io.stat")
        if ":" in row[0]
        for key, _, value in (word.partition("=") for word in row[1:])
        if value.isdigit()
    ]
    return Io(
        service_bytes=tuple(_row(device, _V2_BYTES[key], value) for device, key, value in rows if key in _V2_BYTES),
        serviced=tuple(
            _row(device, _V2_OPERATIONS[key], value) for device, key, value in rows if key in _V2_OPERATIONS
        ),
        pressure=_pressure(directory, "io.pressure"),
    )
