"""What an installation has on the machine that no record of it owns: shims, cgroups, mounts, interfaces, elements
of its nftables tables, directories.

Only what bears this installation's names is looked at. Some things are there a moment before or after their record,
so while a manager lives an orphan must be seen twice.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bulkhead.ctl import purging, remains
from bulkhead.ctl.doctor.findings import Area, Finding, Level
from bulkhead.ctl.doctor.records import Records
from bulkhead.linux import hostmounts, netlink, nftables, process
from bulkhead.linux.cgroups import Cgroup
from bulkhead.model.instance import SPARE, Instance
from bulkhead.model.network import MAC, bridge_name, link_local, parent_name

# Writable layers, volumes and layers are there before their record, for so long at most (seconds).
BEING_MADE = 600.0
# What the host is called on every bridge (manager/networks/ports.py).
_ROUTER = "fe80::1"
_SHIM_TITLE = re.compile(r"bulkhead-shim: ([0-9a-f]{12})\b")


def orphans(instance: Instance, known: Records, *, being_made: float = BEING_MADE) -> list[Finding]:
    """Every one of them, those first whose removal lets go of others. Needs root.

    `being_made` spares directories that are younger than so many seconds: 0 when nobody makes any.
    """
    return [
        *_groups(instance, known),
        *_shims(instance, known),
        *_mounts(instance, known),
        *_elements(instance, known),
        *_interfaces(instance, known),
        *_directories(instance, known, being_made),
    ]


def _orphan(subject: str, text: str, mend: Callable[[], None] | None, advice: str = "") -> Finding:
    return Finding(
        area=Area.INSTANCE,
        level=Level.FAIL,
        subject=subject,
        text=f"{text}, and no record owns it",
        advice=advice or "bulkhead doctor --repair removes it",
        mend=mend,
    )


def _groups(instance: Instance, known: Records) -> Iterator[Finding]:
    places = (child for parent in remains.cgroup_parents(instance) for child in parent.iterdir() if child.is_dir())
    for name in sorted({place.name for place in places} - set(known.containers)):
        held = len({pid for parent in remains.cgroup_parents(instance) for pid in remains.cgroup_pids(parent / name)})
        yield _orphan(f"cgroup {name}", f"it holds {held} processes", partial(_end_group, instance, name))


def _end_group(instance: Instance, name: str) -> None:
    """Kill what is in a group, frozen or not, in whichever hierarchies it is, and remove it."""
    with contextlib.suppress(FileNotFoundError):
        Cgroup(f"/{instance.label}/{name}").kill_all()
    deadline = time.monotonic() + purging.DEATH_SECONDS
    places = [parent / name for parent in remains.cgroup_parents(instance)]
    while time.monotonic() < deadline and (pids := {pid for each in places for pid in remains.cgroup_pids(each)}):
        purging.kill_processes(pids, deadline)
    for place in places:
        for directory, _, _ in os.walk(place, topdown=False):
            purging.remove_cgroup(Path(directory), deadline)


def _shims(instance: Instance, known: Records) -> Iterator[Finding]:
    for pid, title in remains.processes(instance).items():
        named = _SHIM_TITLE.match(title)
        started = process.start_time(pid)
        if named and started is not None and not known.knows_short(named[1]):
            yield _orphan(f"shim of {named[1]}", f"it runs as pid {pid}", partial(_end_process, pid, started, title))


def _end_process(pid: int, started: int, title: str) -> None:
    """If it still bears the title: a shim may have left that container, and be another's."""
    descriptor = process.open_verified(pid, started)
    if descriptor is not None:
        try:
            if process.title(pid) != title:
                return
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


def _mounts(instance: Instance, known: Records) -> Iterator[Finding]:
    """Of all that is mounted below its directories, only volumes and shared memory may be."""
    for root in (instance.run, instance.data):
        for target in hostmounts.mounted_below(root):
            if target != root and not _explains(instance, known, target):
                yield _orphan(f"mount {target}", "a file system is mounted there", partial(hostmounts.unmount, target))


def _explains(instance: Instance, known: Records, target: Path) -> bool:
    containers, volumes = instance.data / "containers", instance.data / "volumes"
    if target.is_relative_to(volumes) and target != volumes:
        # What a user mounted inside a volume of his is his.
        return target.relative_to(volumes).parts[0] in known.volumes
    if target.is_relative_to(containers) and target != containers:
        return target.relative_to(containers).parts[0] in known.containers
    return False


def _interfaces(instance: Instance, known: Records) -> Iterator[Finding]:
    """Host ends of veths, and bridges of networks that are no more."""
    with netlink.Netlink() as kernel:
        links = kernel.links()
    live = {str(one.get("host_interface")) for one in known.attachments}
    bridges = {link.index: link for link in links if link.kind == "bridge" and purging.is_made_by(instance, link)}
    # By their bridge and not by name alone: the default instance's prefix begins every other's.
    for link in links:
        ours = link.master in bridges and link.name.startswith(instance.veth_prefix)
        if link.kind == "veth" and ours and link.name not in live:
            yield _orphan(f"interface {link.name}", "a container's cable", partial(_delete_link, link.name))
    planned = {instance.bridge, *(bridge_name(key, _options(record)) for key, record in known.networks.items())}
    for bridge in bridges.values():
        if bridge.name not in planned:
            yield _orphan(f"interface {bridge.name}", "a network's bridge", partial(_delete_link, bridge.name))
    parents = {parent_name(key, _options(record)) for key, record in known.networks.items()}
    for link in links:
        if link.alias == instance.network_alias and link.kind != "bridge" and link.name not in parents:
            yield _orphan(f"interface {link.name}", "a network's parent", partial(_delete_link, link.name))


def _options(record: Mapping[str, Any]) -> Mapping[str, str]:
    return record.get("options") or {}


def _delete_link(name: str) -> None:
    with netlink.Netlink() as kernel:
        purging.delete_link(kernel, name)


def _elements(instance: Instance, known: Records) -> Iterator[Finding]:
    """An element is owned when an address, MAC, interface or subnet in it is a live container's or a network's."""
    owned = _owned_words(instance, known)
    for family in purging.NFT_FAMILIES:
        for collection, element in _listed(instance.nft_table, family):
            if owned.isdisjoint(_words(element)):
                shown = " . ".join(_words(element))
                yield _orphan(
                    f"nft element {family} {instance.nft_table} {collection}",
                    shown,
                    partial(_delete_element, family, instance.nft_table, collection, _key(element)),
                )


def _owned_words(instance: Instance, known: Records) -> set[str]:
    words = {word for one in known.attachments for value in one.values() for word in _texts(value)}
    with netlink.Netlink() as kernel:
        bridges = [link for link in kernel.links() if link.kind == "bridge" and purging.is_made_by(instance, link)]
        indices = {link.index for link in bridges}
        own = [interface for index, interface in kernel.addresses() if index in indices]
    words |= {str(part) for interface in own for part in (interface.ip, interface.network)}
    words |= {text for link in bridges for text in (link.name, link.mac)}
    words |= {instance.bridge, instance.subnet, instance.subnet6, _ROUTER}
    for identity, record in known.networks.items():
        words.add(bridge_name(identity, _options(record)))
        words |= {str(block.get(key)) for block in record.get("blocks") or () for key in ("gateway", "subnet")}
    macs = [*(link.mac for link in bridges), *(str(one.get("mac")) for one in known.attachments)]
    words |= {str(link_local(mac)) for mac in macs if MAC.fullmatch(mac)}
    return {_normal(word) for word in words}


def _texts(value: object) -> list[str]:
    """Numbers are lengths and ports, which identify nobody."""
    if isinstance(value, list):
        return [word for part in value for word in _texts(part)]
    return [value] if isinstance(value, str) else []


def _listed(table: str, family: str) -> Iterator[tuple[str, Any]]:
    try:
        rules = nftables.Nftables()
    except nftables.LibraryMissing:
        return
    try:
        objects = rules.table(table, family) or []
    finally:
        rules.close()
    for each in objects:
        named = each.get("map") or each.get("set") or {}
        for element in named.get("elem", ()):
            yield named["name"], element


def _words(element: Any) -> list[str]:
    """The parts of an element, key and value, so that they can be compared."""
    return [_normal(part) for part in _parts(element)]


def _parts(element: Any) -> list[str]:
    """The same as they are listed, nested as in libnftables-json(5)."""
    if isinstance(element, dict):
        if "elem" in element:
            return _parts(element["elem"]["val"])
        if "prefix" in element:
            return [f"{element['prefix']['addr']}/{element['prefix']['len']}"]
        return [word for part in element.values() for word in _parts(part)]
    if isinstance(element, list):
        return [word for part in element for word in _parts(part)]
    return [str(element)]


def _normal(word: str) -> str:
    """Addresses and MACs in one spelling; a long hexadecimal number is an IPv6 address that nft has no name for."""
    if re.fullmatch(r"0x[0-9a-f]{9,32}", word):
        return str(ipaddress.IPv6Address(int(word, 16)))
    try:
        return str(ipaddress.ip_address(word))
    except ValueError:
        return word.lower() if re.fullmatch(r"([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}", word) else word


def _key(element: Any) -> list[str]:
    """A map lists pairs, a set keys."""
    return _parts(element[0] if isinstance(element, list) else element)


def _delete_element(family: str, table: str, collection: str, key: list[str]) -> None:
    rules = nftables.Nftables()
    try:
        words = " . ".join(json.dumps(word) if re.search(r"[^0-9A-Za-z.:/]", word) else word for word in key)
        rules.run(f"delete element {family} {table} {collection} {{ {words} }}")
    finally:
        rules.close()


def _directories(instance: Instance, known: Records, being_made: float) -> Iterator[Finding]:
    for place in _children(instance.run / "containers"):
        if not known.knows_short(place.name):
            yield _orphan(f"directory {place}", "sockets of a shim", partial(_remove, instance, place))
    owned = {*known.containers, *(known.leaving if being_made else ())}
    for place in (*_children(instance.data / "containers"), *_children(instance.data / "snapshots" / "containers")):
        if place.name not in owned and not place.name.startswith(SPARE) and _settled(place, being_made):
            yield _orphan(f"directory {place}", "a container's files", partial(_remove, instance, place))
    for place in _children(instance.data / "snapshots" / "layers"):
        if place.name not in known.layers and _settled(place, being_made):
            yield _orphan(f"directory {place}", "an unpacked layer", partial(_remove, instance, place))
    for place in _children(instance.data / "volumes"):
        if place.name not in known.volumes and not place.name.startswith(".") and _settled(place, being_made):
            yield _orphan(
                f"directory {place}",
                "a volume's files",
                None,
                "they may be somebody's data: bulkhead restart manager takes them on as a volume",
            )


def _children(directory: Path) -> list[Path]:
    try:
        return sorted(each for each in directory.iterdir() if each.is_dir() and not each.is_symlink())
    except FileNotFoundError:
        return []


def _settled(place: Path, being_made: float) -> bool:
    """Old enough for its record to be there."""
    try:
        return time.time() - place.stat().st_ctime >= being_made
    except FileNotFoundError:
        return False


def _remove(instance: Instance, place: Path) -> None:
    """Out of sight by one rename, as the manager does it, then deleted; never across a mount."""
    for target in hostmounts.mounted_below(place):
        hostmounts.unmount(target)
    if place.is_relative_to(instance.data):
        trash = instance.data / "trash"
        trash.mkdir(mode=0o700, exist_ok=True)
        place = place.rename(trash / secrets.token_hex(12))
    # The manager empties its trash too: whoever comes second finds nothing.
    shutil.rmtree(place, ignore_errors=True)
