"""How a process is scheduled and where its memory comes from: process.scheduler, ioPriority, execCPUAffinity,
linux.personality and memoryPolicy as the numbers that the kernel takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from bulkhead.nsexec.plan import Tuning, TuningFlag

Config = Mapping[str, Any]

POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
SCHEDULER_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
PERSONALITIES = {"LINUX": 0x0000, "LINUX32": 0x0008}
MEMORY_MODES = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
MEMORY_FLAGS = {"MPOL_F_STATIC_NODES": 1 << 15, "MPOL_F_RELATIVE_NODES": 1 << 14, "MPOL_F_NUMA_BALANCING": 1 << 13}
MOST_CPUS = 8192
MOST_NODES = 1024


def of_process(config: Config, process: Config) -> Tuning | None:
    """None when the config leaves everything as it is."""
    tuning = Tuning(present=TuningFlag.NONE)
    if scheduler := process.get("scheduler"):
        tuning = _scheduler(tuning, scheduler)
    if priority := process.get("ioPriority"):
        value = IO_CLASSES[priority["class"]] << 13 | (priority.get("priority") or 0)
        tuning = replace(tuning, present=tuning.present | TuningFlag.IO_PRIORITY, io_priority=value)
    if personality := (config.get("linux") or {}).get("personality"):
        value = PERSONALITIES[personality["domain"]]
        tuning = replace(tuning, present=tuning.present | TuningFlag.PERSONALITY, personality=value)
    return tuning if tuning.present else None


def _scheduler(tuning: Tuning, wanted: Config) -> Tuning:
    flags = 0
    for name in wanted.get("flags") or ():
        flags |= SCHEDULER_FLAGS[name]
    return replace(
        tuning,
        present=tuning.present | TuningFlag.SCHEDULER,
        policy=POLICIES[wanted["policy"]],
        nice=wanted.get("nice") or 0,
        priority=wanted.get("priority") or 0,
        scheduler_flags=flags,
        runtime=wanted.get("runtime") or 0,
        deadline=wanted.get("deadline") or 0,
        period=wanted.get("period") or 0,
    )


def memory_policy(linux: Config) -> tuple[int | None, tuple[int, ...]]:
    """(mode and flags or None, words of the node mask)."""
    policy: Config = linux.get("memoryPolicy") or {}
    if not policy.get("mode"):
        return None, ()
    mode = MEMORY_MODES[policy["mode"]]
    for name in policy.get("flags") or ():
        mode |= MEMORY_FLAGS[name]
    return mode, words(parse_cpus(policy.get("nodes") or "", MOST_NODES))


def joined(tuning: Tuning | None, memory_mode: int | None) -> Tuning | None:
    """With the memory policy of the container, if it has one."""
    if memory_mode is None:
        return tuning
    tuning = tuning or Tuning(present=TuningFlag.NONE)
    return replace(tuning, present=tuning.present | TuningFlag.MEMORY_POLICY, memory_mode=memory_mode)


def exec_affinity(process: Config) -> tuple[int, ...]:
    """The processors of a further process once it has joined: `final`, or those it came from."""
    affinity: Config = process.get("execCPUAffinity") or {}
    return words(parse_cpus(affinity.get("final") or affinity.get("initial") or ""))


def parse_cpus(text: str, limit: int = MOST_CPUS) -> frozenset[int]:
    """`0-3,7`; ValueError when it is no such list."""
    found = set[int]()
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        first, _, last = part.partition("-")
        begin, end = int(first), int(last or first)
        if not 0 <= begin <= end < limit:
            raise ValueError(f"{part!r} is out of range")
        found.update(range(begin, end + 1))
    return frozenset(found)


def words(numbers: Iterable[int]) -> tuple[int, ...]:
    """A bit mask as pairs of 32-bit words, the kernel's unsigned longs; empty for none."""
    mask = sum(1 << number for number in numbers)
    count = (mask.bit_length() + 63) // 64 * 2
    return tuple(mask >> (32 * index) & 0xFFFFFFFF for index in range(count))
