"""Samples as objects of `GET /containers/{id}/stats`; which keys there are depends on the cgroup's version."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bulkhead.api.schema.times import rfc3339
from bulkhead.model.sample import CpuFigures, InterfaceFigures, IoFigure, MemoryFigures, PidFigures, Sample

_COLUMNS = ("bytes", "packets", "errors", "dropped")
_NO_LIMIT = 2**64 - 1
_V1_IO = ("io_queue_recursive", "io_service_time_recursive", "io_wait_time_recursive", "io_merged_recursive",
          "io_time_recursive", "sectors_recursive")  # fmt: skip


def shown(sample: Sample, before: Sample | None) -> dict[str, Any]:
    """One object of the stream; `before` is the sample to compare with."""
    found: dict[str, Any] = {
        "name": f"/{sample.name}",
        "id": sample.id,
        "read": rfc3339(sample.at),
        "preread": rfc3339(before.at if before is not None else 0),
        "pids_stats": _pids(sample.pids),
        "blkio_stats": _block(sample),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(sample),
        "precpu_stats": _cpu(before),
        "memory_stats": _memory(sample.memory, unified=sample.unified) if sample.at else {},
    }
    if sample.interfaces:
        found["networks"] = {each.name: _interface(each) for each in sample.interfaces}
    return found


def _pids(pids: PidFigures | None) -> dict[str, int]:
    return {} if pids is None else {"current": pids.usage, "limit": pids.limit or _NO_LIMIT}


def _cpu(sample: Sample | None) -> dict[str, Any]:
    figures = sample.cpu if sample is not None else CpuFigures()
    usage: dict[str, Any] = {
        "total_usage": figures.total,
        "usage_in_kernelmode": figures.kernel,
        "usage_in_usermode": figures.user,
    }
    found: dict[str, Any] = {"cpu_usage": usage, "throttling_data": _throttling(figures)}
    if sample is not None and sample.at:
        if figures.per_cpu:
            usage["percpu_usage"] = list(figures.per_cpu)
        found |= {"system_cpu_usage": sample.system_cpu, "online_cpus": sample.online_cpus}
    return found


def _throttling(figures: CpuFigures) -> dict[str, int]:
    return {
        "periods": figures.periods,
        "throttled_periods": figures.throttled_periods,
        "throttled_time": figures.throttled,
    }


def _memory(memory: MemoryFigures, *, unified: bool) -> dict[str, Any]:
    version_1 = {} if unified else {"max_usage": memory.peak} | ({"failcnt": memory.failed} if memory.failed else {})
    return {"usage": memory.usage, **version_1, "stats": dict(memory.detail), "limit": memory.limit}


def _block(sample: Sample) -> dict[str, Any]:
    nothing: list[Any] | None = None if sample.unified or not sample.at else []
    return {
        "io_service_bytes_recursive": _rows(sample.io_bytes) or nothing,
        "io_serviced_recursive": _rows(sample.io_operations) or nothing,
    } | dict.fromkeys(_V1_IO, nothing)


def _rows(rows: Iterable[IoFigure]) -> list[dict[str, Any]]:
    return [{"major": row.major, "minor": row.minor, "op": row.op, "value": row.value} for row in rows]


def _interface(interface: InterfaceFigures) -> dict[str, int]:
    received = {f"rx_{name}": value for name, value in zip(_COLUMNS, interface.received, strict=True)}
    return received | {f"tx_{name}": value for name, value in zip(_COLUMNS, interface.sent, strict=True)}
