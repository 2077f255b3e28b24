"""Counters of the whole machine, and of the network interfaces that a process sees (proc(5))."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
# user nice system idle iowait irq softirq: the first that /proc/stat tells, as Docker sums them up.
_CPU_COLUMNS = 7


class Interface(NamedTuple):
    """Bytes, packets, errors and dropped packets of each direction."""

    name: str
    received: tuple[int, ...]
    sent: tuple[int, ...]


def system_cpu_nanoseconds() -> int:
    """What all CPUs have spent since boot, idle included. Raises OSError."""
    with open(_PROC / "stat", encoding="ascii") as file:  # noqa: PTH123 - the rest of the file is long
        ticks = sum(map(int, file.readline().split()[1 : _CPU_COLUMNS + 1]))
    return ticks * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


def online_cpus() -> int:
    return os.sysconf("SC_NPROCESSORS_ONLN")


def memory_bytes() -> int:
    """Of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def interfaces(pid: int) -> tuple[Interface, ...]:
    """The interfaces in the network namespace of a process, without the loopback; none when it is gone."""
    try:
        lines = (_PROC / str(pid) / "net" / "dev").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return ()
    found = (_interface(line) for line in lines[2:])
    return tuple(each for each in found if each is not None and each.name != "lo")


def _interface(line: str) -> Interface | None:
    name, _, figures = line.rpartition(":")
    columns = tuple(int(word) for word in figures.split())
    return Interface(name.strip(), columns[0:4], columns[8:12]) if len(columns) >= 12 else None
