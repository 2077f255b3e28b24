"""What an installation holds on the machine at one moment, and what a test left of it.

Everything is read from the kernel and the file system, nothing is asked of the engine. Only what
belongs to the one installation is looked at, so that tests of other installations may run beside.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bulkhead.ctl import remains
from bulkhead.ctl.purging import NFT_FAMILIES
from bulkhead.linux import nftables
from bulkhead.linux.netlink import Netlink
from bulkhead.model.instance import SERVICES, SPARE, Instance
from bulkhead.service import holder

# Removal answers first and reaps in the background (design 9): what remains after this is a leak.
SETTLE_SECONDS = 30.0
# A service may open a connection or a database file when it is first needed and keep it.
ALLOWED_GROWTH = {"socket": 4, "file": 4, "anon_inode": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Names of everything that could be left behind, and each service's descriptors by kind."""

    things: frozenset[str]
    descriptors: dict[str, Counter[str]]


def facts(instance: Instance) -> Facts:
    """What there is now. Services themselves are not counted: a test may have restarted them."""
    running = remains.processes(instance)
    things = {
        *_mounts(instance),
        *_cgroups(instance),
        *_veths(instance),
        *_nft_elements(instance),
        *_shims(instance, running),
        *_zombies(instance, running),
        *_directories(instance),
    }
    return Facts(things=frozenset(things), descriptors=_descriptors(instance))


def left_after(instance: Instance, before: Facts, seconds: float = SETTLE_SECONDS) -> list[str]:
    """What is there that was not `before`; waits until there is nothing, at most `seconds`."""
    deadline = time.monotonic() + seconds
    while (left := compare(before, facts(instance))) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def compare(before: Facts, after: Facts) -> list[str]:
    """What is new in `after`, in words."""
    left = sorted(after.things - before.things)
    for service, counts in after.descriptors.items():
        for kind, count in counts.items():
            allowed = before.descriptors.get(service, Counter())[kind] + ALLOWED_GROWTH.get(kind, 0)
            if service in before.descriptors and count > allowed:
                left.append(f"{service} holds {count} descriptors of kind {kind}, {allowed} would be right")
    return left


def _mounts(instance: Instance) -> set[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    inside = (f"{instance.run}/", f"{instance.data}/")
    return {f"mount {line.split()[4]}" for line in lines if line.split()[4].startswith(inside)}


def _cgroups(instance: Instance) -> set[str]:
    parents = remains.cgroup_parents(instance)
    return {f"cgroup {child}" for parent in parents for child in parent.iterdir() if child.is_dir()}


def _veths(instance: Instance) -> set[str]:
    with Netlink() as kernel:
        links = kernel.links()
    bridges = {link.index for link in links if instance.network_alias == link.alias or link.name == instance.bridge}
    return {f"veth {link.name}" for link in links if link.kind == "veth" and link.master in bridges}


def _nft_elements(instance: Instance) -> set[str]:
    rules = nftables.Nftables()
    try:
        objects = [each for family in NFT_FAMILIES for each in rules.table(instance.nft_table, family) or []]
    finally:
        rules.close()
    named = [value for each in objects for kind, value in each.items() if kind in {"set", "map"}]
    return {f"nft element of {each['name']}: {element}" for each in named for element in _elements(each)}


def _elements(named: dict[str, Any]) -> list[str]:
    return [str(element) for element in named.get("elem", [])]


def _shims(instance: Instance, running: Mapping[int, str]) -> set[str]:
    """Shims that serve a container; spare ones wait for work and are none."""
    sockets = instance.run / "containers"
    return {
        f"process {pid} {title}"
        for pid, title in running.items()
        if re.match(r"bulkhead-shim: [0-9a-f]{12}", title) or f" {sockets}/" in title
    }


def _zombies(instance: Instance, running: Mapping[int, str]) -> set[str]:
    services = {pid for service in SERVICES if (pid := holder(instance.pid_file(service))) is not None}
    services |= set(running)
    zombies = set()
    for number in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 -- hundreds, at each look
        with contextlib.suppress(OSError):
            name, _, rest = _stat(number).rpartition(")")
            state, parent = rest.split()[:2]
            if state == "Z" and int(parent) in services:
                zombies.add(f"zombie {name}) of {parent}")
    return zombies


def _stat(pid: str) -> str:
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096).decode(errors="replace")
    finally:
        os.close(fd)


def _directories(instance: Instance) -> set[str]:
    names = ("containers", "trash", "snapshots/containers", "snapshots/ingest", "content/ingest")
    places = (instance.run / "containers", *(instance.data / name for name in names))
    entries = (entry for place in places if place.is_dir() for entry in place.iterdir())
    return {f"directory {entry}" for entry in entries if not entry.name.startswith(SPARE)}


def _descriptors(instance: Instance) -> dict[str, Counter[str]]:
    return {service: _kinds(pid) for service in SERVICES if (pid := holder(instance.pid_file(service))) is not None}


def _kinds(pid: int) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            kinds[_kind(str(fd.readlink()))] += 1
    return kinds


def _kind(target: str) -> str:
    if target.startswith("/"):
        return "file"
    if target == "anon_inode:[pidfd]":
        return "pidfd"
    return target.partition(":")[0]
