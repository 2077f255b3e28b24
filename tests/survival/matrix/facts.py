"""Whether what the engine says of its containers, networks and volumes is what the kernel and the disk say."""

from __future__ import annotations

import glob
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bulkhead.ctl import remains
from bulkhead.linux.netlink import Netlink
from bulkhead.model.instance import SPARE, Instance
from tests.support.engine import Engine

SETTLE_SECONDS = 6.0
MOST_SECONDS = 60.0
_LEFT_BY_SHIMS = frozenset({"shim.log"})


def settled(engine: Engine, seconds: float = SETTLE_SECONDS) -> list[str]:
    """What does not agree; waits until everything does, or nothing has become better for `seconds`."""
    deadline, before = time.monotonic() + seconds, list[str]()
    end = time.monotonic() + MOST_SECONDS
    while (wrong := list(disagreements(engine))) and time.monotonic() < deadline:
        if set(before) - set(wrong):
            # A trash that is being emptied on a busy machine, say: one tree in it becomes dozens before it is none.
            deadline = min(time.monotonic() + seconds, end)
        before = wrong
        time.sleep(0.05)
    return wrong


def snapshot(engine: Engine) -> dict[str, Any]:
    """Everything the engine says that a second recovery may not change."""
    found: dict[str, Any] = {}
    for each in engine.api("GET", "/containers/json?all=1").json:
        inspected = engine.api("GET", f"/containers/{each['Id']}/json").json
        found[each["Id"]] = inspected
    for kind, path in (("networks", "/networks"), ("volumes", "/volumes"), ("images", "/images/json?all=1")):
        found[kind] = engine.api("GET", path).json
    return found


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Of two snapshots: what is new, other, or gone."""
    return [key for key in {**before, **after} if before.get(key) != after.get(key)]


def disagreements(engine: Engine) -> Iterator[str]:
    """In words."""
    listed = engine.api("GET", "/containers/json?all=1")
    if listed.status != 200:
        yield f"containers are not listed: {listed.status} {listed.body!r}"
        return
    containers = [engine.api("GET", f"/containers/{each['Id']}/json").json for each in listed.json]
    containers = [each for each in containers if each and "Id" in each]
    instance = engine.instance
    for each in containers:
        yield from (f"{each['Name']}: {wrong}" for wrong in _of_container(instance, each))
    running = {each["Id"] for each in containers if each["State"]["Running"]}
    ids = {each["Id"] for each in containers}
    groups = {child.name for parent in remains.cgroup_parents(instance) for child in parent.iterdir() if child.is_dir()}
    yield from (f"cgroup of nobody that runs: {name}" for name in groups - running)
    yield from _directories(instance, ids)
    yield from _volumes(engine, instance)
    yield from _network(engine, containers)


def _of_container(instance: Instance, inspected: dict[str, Any]) -> Iterator[str]:
    state, pid = inspected["State"], inspected["State"]["Pid"]
    if not state["Running"]:
        if pid:
            yield f"does not run and has pid {pid}"
        return
    groups = _groups(pid)
    if inspected["Id"] not in groups:
        yield f"runs as {pid}, which is not in its cgroup"
        return
    frozen = _frozen(instance, inspected["Id"])
    if frozen is not None and frozen is not state["Paused"]:
        yield f"frozen is {frozen}, paused {state['Paused']}"
    told = {each["IPAddress"] for each in inspected["NetworkSettings"]["Networks"].values() if each["IPAddress"]}
    found = _addresses(pid)
    if inspected["HostConfig"]["NetworkMode"] != "host" and told != found:
        yield f"has the addresses {sorted(found)}, and is told to have {sorted(told)}"
    yield from _limit(instance, inspected)


def _groups(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""


def _group_file(instance: Instance, container_id: str, name: str) -> str | None:
    for parent in remains.cgroup_parents(instance):
        place = parent / container_id / name
        if place.exists():
            return place.read_text().strip()
    return None


def _frozen(instance: Instance, container_id: str) -> bool | None:
    state = _group_file(instance, container_id, "freezer.state")
    return None if state is None else state != "THAWED"


def _limit(instance: Instance, inspected: dict[str, Any]) -> Iterator[str]:
    told = inspected["HostConfig"]["Memory"]
    found = _group_file(instance, inspected["Id"], "memory.limit_in_bytes")
    if told and found is not None and int(found) != told:
        yield f"may use {found} bytes, and is told {told}"


def _addresses(pid: int) -> set[str]:
    command = ["nsenter", "-t", str(pid), "-n", "ip", "-j", "-4", "addr"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    links = json.loads(done.stdout or "[]")
    return {address["local"] for link in links if link["ifname"] != "lo" for address in link["addr_info"]}


def _directories(instance: Instance, ids: set[str]) -> Iterator[str]:
    for place in (instance.data / "containers", instance.data / "snapshots" / "containers"):
        names = {name for name in _names(place) if not name.startswith(SPARE)}
        yield from (f"{place.name} of nobody: {name}" for name in names - ids)
    short = {each[:12] for each in ids}
    sockets = {name for name in _names(instance.run / "containers") if name not in ids and name not in short}
    yield from (f"sockets of nobody: {name}" for name in sockets)
    for passing in ("trash", "snapshots/ingest", "snapshots/trash", "content/ingest"):
        yield from (f"left in {passing}: {name}" for name in _names(instance.data / passing))
    yield from (f"left: {path}" for path in glob.glob(f"{instance.data}/containers/*/.*.tmp"))  # noqa: PTH207


def _volumes(engine: Engine, instance: Instance) -> Iterator[str]:
    told = {each["Name"] for each in engine.api("GET", "/volumes").json["Volumes"] or []}
    found = _names(instance.data / "volumes")
    if told != found:
        yield f"volumes on disk {sorted(found - told)} more, {sorted(told - found)} less"


def _network(engine: Engine, containers: list[dict[str, Any]]) -> Iterator[str]:
    networks = [each for each in engine.api("GET", "/networks").json if each["Driver"] == "bridge"]
    names = {engine.instance.bridge} | {f"br-{each['Id'][:12]}" for each in networks if each["Name"] != "bridge"}
    with Netlink() as kernel:
        links = kernel.links()
    bridges = {link.index: link.name for link in links if link.name in names}
    missing = names - set(bridges.values())
    if missing:
        yield f"bridges are missing: {sorted(missing)}"
    veths = [link for link in links if link.kind == "veth" and link.master in bridges]
    told = [
        end
        for each in containers
        if each["State"]["Running"]
        for end in each["NetworkSettings"]["Networks"].values()
        if end["IPAddress"]
    ]
    if len(veths) != len(told):
        yield f"{len(veths)} veths for {len(told)} endpoints"


def _names(place: Path) -> set[str]:
    try:
        return set(os.listdir(place)) - _LEFT_BY_SHIMS  # noqa: PTH208
    except FileNotFoundError:
        return set()
