"""What the kernel says a container uses: its cgroup, and the network interfaces of its first process."""

from __future__ import annotations

import time

from bulkhead.linux import process, usage
from bulkhead.linux.cgroup_stats import Cpu, IoRow, Memory
from bulkhead.linux.cgroups import Cgroup, hierarchies
from bulkhead.manager.sharing import Attachment, attachment
from bulkhead.model.container import Container
from bulkhead.model.sample import CpuFigures, InterfaceFigures, IoFigure, MemoryFigures, PidFigures, Sample

_OPERATIONS = ("Read", "Write")


def read_figures(container: Container, group: str) -> Sample:
    """All figures of now of a live container in cgroup `group`. Blocks.

    One that has just gone has used nothing; no error but of a broken /proc.
    """
    stats = Cgroup(group).stats()
    unified = hierarchies().is_v2
    return Sample(
        id=container.id,
        name=container.name,
        at=time.time_ns(),
        system_cpu=usage.system_cpu_nanoseconds(),
        online_cpus=usage.online_cpus(),
        unified=unified,
        cpu=_cpu(stats.cpu),
        memory=_memory(stats.memory),
        pids=PidFigures(usage=stats.pids.usage, limit=stats.pids.limit or 0) if stats.pids else None,
        io_bytes=_rows(stats.io.service_bytes, unified),
        io_operations=() if unified else _rows(stats.io.serviced, unified),
        interfaces=_interfaces(container),
    )


def _cpu(cpu: Cpu) -> CpuFigures:
    return CpuFigures(
        total=cpu.total,
        user=cpu.user,
        kernel=cpu.kernel,
        per_cpu=tuple(total for total, _, _ in cpu.per_cpu),
        periods=cpu.periods,
        throttled_periods=cpu.throttled_periods,
        throttled=cpu.throttled,
    )


def _memory(memory: Memory | None) -> MemoryFigures:
    if memory is None:
        return MemoryFigures()
    counter, most = memory.memory, usage.memory_bytes()
    return MemoryFigures(
        usage=counter.usage,
        peak=counter.peak or 0,
        failed=counter.failed,
        limit=most if counter.limit is None else min(counter.limit, most),
        detail=memory.detail,
    )


def _rows(rows: tuple[IoRow, ...], unified: bool) -> tuple[IoFigure, ...]:
    """Docker spells operations as the kernel's version does, and of v2 tells reads and writes alone."""
    return tuple(
        IoFigure(major=row.major, minor=row.minor, op=row.op.lower() if unified else row.op, value=row.value)
        for row in rows
        if not unified or row.op in _OPERATIONS
    )


def _interfaces(container: Container) -> tuple[InterfaceFigures, ...]:
    """None for the host's network, whose traffic is not the container's."""
    if attachment(container.spec) is Attachment.HOST:
        return ()
    found = usage.interfaces(container.pid)
    # Read first: if it is still the same process, the figures were its own.
    if process.start_time(container.pid) != container.pid_start_time:
        return ()
    return tuple(InterfaceFigures(name=each.name, received=each.received, sent=each.sent) for each in found)
