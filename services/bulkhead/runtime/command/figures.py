"""events: usage figures in runc's shape, once or at intervals until the container ends, and OOM kills."""

from __future__ import annotations

import json
import os
import re
import select
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bulkhead.errors import Conflict, InvalidArgument
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
        "cpu": _cpu(stats.get("cpu") or {}),
        "cpuset": {},
        "memory": _memory(stats.get("memory") or {}),
        "pids": _without_none({key: (stats.get("pids") or {}).get(key) for key in ("current", "limit")}),
        "blkio": _block(stats.get("io") or {}),
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _cpu(found: Mapping[str, Any]) -> dict[str, Any]:
    usage = {"total": found.get("total_ns"), "kernel": found.get("system_ns", 0), "user": found.get("user_ns", 0)}
    throttling = {
        "periods": found.get("periods"),
        "throttledPeriods": found.get("throttled_periods"),
        "throttledTime": found.get("throttled_ns"),
    }
    return {"usage": _without_none(usage), "throttling": {key: value for key, value in throttling.items() if value}}


def _memory(found: Mapping[str, Any]) -> dict[str, Any]:
    raw = found.get("stats") or {}
    usage = {
        "limit": found.get("limit", (1 << 64) - 1),
        "usage": found.get("usage"),
        "max": found.get("max_usage"),
        "failcnt": found.get("failcnt", 0),
    }
    return _without_none(
        {
            "cache": raw.get("cache", raw.get("file")),
            "usage": _without_none(usage),
            "swap": {"limit": 0, "failcnt": 0},
            "kernel": {"limit": 0, "failcnt": 0},
            "kernelTCP": {"limit": 0, "failcnt": 0},
            "raw": raw,
        }
    )


def _block(found: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    names = {"bytes": "ioServiceBytesRecursive", "operations": "ioServicedRecursive"}
    return {name: list(found[key]) for key, name in names.items() if found.get(key)}


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value is not None}
