"""Docker's limits as an OCI runtime config states them (`linux.resources`, `process.rlimits`).

Pure but for looking up device numbers. Sources: oci-runtime.md 6, Docker's defaults for what is not said.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bulkhead.errors import InvalidArgument
from bulkhead.linux import cgroup_mounts
from bulkhead.model.container import Resources, ThrottleDevice, Ulimit, WeightDevice

CPU_PERIOD = 100_000
_NANO = 1_000_000_000


def resources(told: Resources) -> dict[str, Any]:
    """`linux.resources` without its device rules. Raises InvalidArgument for a device that is none."""
    parts = {"memory": _memory(told), "cpu": _cpu(told), "blockIO": _block_io(told)}
    found: dict[str, Any] = {name: part for name, part in parts.items() if part}
    if told.pids_limit > 0:
        found["pids"] = {"limit": told.pids_limit}
    return found


def rlimits(ulimits: Iterable[Ulimit]) -> list[dict[str, Any]]:
    """`process.rlimits`."""
    return [{"type": f"RLIMIT_{each.name.upper()}", "hard": each.hard, "soft": each.soft} for each in ulimits]


def _memory(told: Resources) -> dict[str, Any]:
    memory: dict[str, Any] = {}
    if told.memory > 0:
        memory["limit"] = told.memory
        # Docker: as much swap as memory when nothing is said.
        memory["swap"] = told.memory_swap or 2 * told.memory
    elif told.memory_swap:
        memory["swap"] = told.memory_swap
    if told.memory_reservation > 0:
        memory["reservation"] = told.memory_reservation
    if told.memory_swappiness is not None and told.memory_swappiness >= 0:
        memory["swappiness"] = told.memory_swappiness
    if told.oom_kill_disable:
        memory["disableOOMKiller"] = True
    return memory


def _cpu(told: Resources) -> dict[str, Any]:
    cpu: dict[str, Any] = {}
    if told.nano_cpus > 0:
        cpu = {"period": CPU_PERIOD, "quota": told.nano_cpus * CPU_PERIOD // _NANO}
    if told.cpu_period > 0:
        cpu["period"] = told.cpu_period
    if told.cpu_quota:
        cpu["quota"] = told.cpu_quota
    if told.cpu_shares > 0:
        cpu["shares"] = told.cpu_shares
    if told.cpuset_cpus:
        cpu["cpus"] = told.cpuset_cpus
    if told.cpuset_mems:
        cpu["mems"] = told.cpuset_mems
    return cpu


def _block_io(told: Resources) -> dict[str, Any]:
    throttles = {
        "throttleReadBpsDevice": told.device_read_bps,
        "throttleWriteBpsDevice": told.device_write_bps,
        "throttleReadIOPSDevice": told.device_read_iops,
        "throttleWriteIOPSDevice": told.device_write_iops,
    }
    found: dict[str, Any] = {
        key: [_throttle(each) for each in devices] for key, devices in throttles.items() if devices
    }
    if told.blkio_weight:
        found["weight"] = told.blkio_weight
    if told.blkio_weight_devices and all(map(weighable, told.blkio_weight_devices)):
        found["weightDevice"] = [{**_numbers(each.path), "weight": each.weight} for each in told.blkio_weight_devices]
    return found


def weighs() -> bool:
    """Whether a share of all disks has any effect: v1 has none but BFQ's, v2 weighs whatever the scheduler."""
    if "blkio" not in cgroup_mounts.hierarchies().v1:
        return True
    return any("[bfq]" in _scheduler(each) for each in Path("/sys/block").glob("*/queue/scheduler"))


def _scheduler(place: Path) -> str:
    with contextlib.suppress(OSError):
        return place.read_text()
    return ""


def weighable(device: WeightDevice) -> bool:
    """Whether shares of a device can be weighed: its scheduler decides, and only BFQ does (Documentation/block/bfq)."""
    try:
        number = os.stat(device.path).st_rdev  # noqa: PTH116
        scheduler = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/queue/scheduler")
        return "[bfq]" in scheduler.read_text()
    except OSError:
        return False


def _throttle(device: ThrottleDevice) -> dict[str, int]:
    return {**_numbers(device.path), "rate": device.rate}


def _numbers(path: str) -> dict[str, int]:
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError as error:
        raise InvalidArgument(f"stat {path}: {(error.strerror or str(error)).lower()}") from error
    if not stat.S_ISBLK(found.st_mode):
        raise InvalidArgument(f"cannot limit device {path}: it is no block device")
    return {"major": os.major(found.st_rdev), "minor": os.minor(found.st_rdev)}
