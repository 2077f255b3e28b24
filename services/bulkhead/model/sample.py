"""What a container used up to one moment. Times in nanoseconds, sizes in bytes.

Fields are spelt as in protos/bulkhead/manager/v1/statistics.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuFigures:
    """`per_cpu` is cgroup v1's alone."""

    total: int = 0
    user: int = 0
    kernel: int = 0
    per_cpu: tuple[int, ...] = ()
    periods: int = 0
    throttled_periods: int = 0
    throttled: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFigures:
    """`limit` is never more than what the machine has; `detail` is memory.stat."""

    usage: int = 0
    peak: int = 0
    failed: int = 0
    limit: int = 0
    detail: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PidFigures:
    """Tasks; a `limit` of 0 is none."""

    usage: int = 0
    limit: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class IoFigure:
    """Bytes or operations of one kind on a block device."""

    major: int
    minor: int
    op: str
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceFigures:
    """A network interface of the container: bytes, packets, errors, dropped."""

    name: str
    received: tuple[int, ...] = (0, 0, 0, 0)
    sent: tuple[int, ...] = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """All figures at one moment. `at` (Unix nanoseconds) is 0 for a container that does not run.

    `system_cpu` is what all CPUs of the machine together have spent since boot.
    """

    id: str
    name: str
    at: int = 0
    system_cpu: int = 0
    online_cpus: int = 0
    unified: bool = False
    cpu: CpuFigures = field(default_factory=CpuFigures)
    memory: MemoryFigures = field(default_factory=MemoryFigures)
    pids: PidFigures | None = None
    io_bytes: tuple[IoFigure, ...] = ()
    io_operations: tuple[IoFigure, ...] = ()
    interfaces: tuple[InterfaceFigures, ...] = ()
