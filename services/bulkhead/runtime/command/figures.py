"""events: usage figures in runc's shape, once or at intervals until the container ends, and OOM kills."""

from __future__ import annotations

import json
import os
import re
import select
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bulkhead.errors import Conflict, InvalidArgument
from bulkhead.linux.cgroup_stats import Counter, Cpu, Io, Memory, Pressure
from bulkhead.linux.cgroups import Cgroup
from bulkhead.runtime.command.arguments import Arguments
from bulkhead.runtime.command.context import Context
from bulkhead.runtime.state import Status

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
# How often OOM kills are looked for between two figures.
_GLANCE_SECONDS = 0.25


def events(context: Context, arguments: Arguments) -> int:
    interval = _duration(arguments.text("interval") or "5s")
    container = context.container(arguments.positional[0])
    record = container.load()
    if container.status(record) is Status.STOPPED:
        raise Conflict(f"container with id {container.id} is not running")
    group = record.group()
    if arguments.switch("stats"):
        _tell("stats", container.id, figures(group))
        return 0
    process = record.open_process()
    if process is not None:
        _follow(container.id, group, process, interval)
        os.close(process)
    return 0


def _follow(container_id: str, group: Cgroup, process: int, interval: float) -> None:
    poller = select.poll()
    poller.register(process, select.POLLIN)
    due, kills = time.monotonic() + interval, group.oom_kills()
    while not poller.poll(min(_GLANCE_SECONDS, interval) * 1000):
        now = group.oom_kills()
        if now > kills:
            kills = now
            _tell("oom", container_id)
        if time.monotonic() >= due:
            due = time.monotonic() + interval
            _tell("stats", container_id, figures(group))
    if group.oom_kills() > kills:
        _tell("oom", container_id)


def _tell(kind: str, container_id: str, data: Mapping[str, Any] | None = None) -> None:
    event = {"type": kind, "id": container_id} | ({} if data is None else {"data": data})
    sys.stdout.write(json.dumps(event, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def _duration(text: str) -> float:
    """Go's spelling: 5s, 1m30s, 100ms. InvalidArgument when it is none, or not positive."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", text)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or seconds <= 0:
        raise InvalidArgument("duration interval must be greater than 0")
    return seconds


def figures(group: Cgroup) -> dict[str, Any]:
    """The group's statistics as containerd's shims read them; what the kernel does not have is absent."""
    stats = group.stats()
    return {
        "cpu": _cpu(stats.cpu),
        "cpuset": {"cpus": _numbers(stats.cpus), "mems": _numbers(stats.mems)},
        "memory": _memory(stats.memory),
        "pids": _without_none({"current": stats.pids.usage, "limit": stats.pids.limit}) if stats.pids else {},
        "blkio": _block(stats.io),
        "hugetlb": {
            size: {"usage": counter.usage, "max": counter.peak or 0, "failcnt": counter.failed}
            for size, counter in stats.hugetlb.items()
        },
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _cpu(cpu: Cpu) -> dict[str, Any]:
    usage: dict[str, Any] = {"total": cpu.total, "kernel": cpu.kernel, "user": cpu.user}
    if cpu.per_cpu:
        usage["percpu"] = [total for total, _, _ in cpu.per_cpu]
    throttling = {
        "periods": cpu.periods,
        "throttledPeriods": cpu.throttled_periods,
        "throttledTime": cpu.throttled,
    }
    return {"usage": usage, "throttling": throttling} | _pressure(cpu.pressure)


def _memory(memory: Memory | None) -> dict[str, Any]:
    if memory is None:
        return {}
    counters = {
        "usage": memory.memory,
        "swap": memory.swap,
        "kernel": memory.kernel,
        "kernelTCP": memory.kernel_tcp,
    }
    cache = memory.detail.get("cache", memory.detail.get("file"))
    return (
        _without_none({"cache": cache})
        | {name: _counter(counter) for name, counter in counters.items()}
        | {"raw": dict(memory.detail)}
        | _pressure(memory.pressure)
    )


def _counter(counter: Counter | None) -> dict[str, int]:
    if counter is None:
        return {"limit": 0, "failcnt": 0}
    limit = (1 << 64) - 1 if counter.limit is None else counter.limit
    return {"limit": limit, "usage": counter.usage, "max": counter.peak or 0, "failcnt": counter.failed}


def _block(io: Io) -> dict[str, Any]:
    rows = {"ioServiceBytesRecursive": io.service_bytes, "ioServicedRecursive": io.serviced}
    found: dict[str, Any] = {name: [asdict(row) for row in entries] for name, entries in rows.items() if entries}
    return found | _pressure(io.pressure)


def _pressure(pressure: Pressure | None) -> dict[str, Any]:
    return {} if pressure is None else {"psi": {"some": dict(pressure.some), "full": dict(pressure.full)}}


def _numbers(ranges: str) -> list[int]:
    """The kernel's "0-2,5" one by one."""
    found = list[int]()
    for part in filter(None, ranges.strip().split(",")):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value is not None}
