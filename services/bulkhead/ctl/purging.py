"""Removing an installation: its processes, cgroups, network and files, and nothing that is not its own.

Works from kernel facts, whatever state the services left behind, and any number of times. Below
the run and data directories only names of the known layout are removed; a directory that holds
something else is kept, and said.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from bulkhead.ctl import remains
from bulkhead.ctl.daemons import Daemons
from bulkhead.errors import Conflict, Internal
from bulkhead.linux import hostmounts, netlink, nftables
from bulkhead.linux.cgroups import Cgroup
from bulkhead.model.instance import Instance
from bulkhead.settings import Settings

DEATH_SECONDS = 10.0
# The manager's tables have one name in each of these.
NFT_FAMILIES = ("inet", "bridge")
_RUN_PATTERNS = (
    *("*.sock", "*.pid", "*.lock", "*.stacks", ".*.stacks.tmp", "log", "containers", "cache", "netns", "names", "tmp"),
    *("inlets", "failpoints"),
)
_DATA_PATTERNS = (
    *("bulkhead.db", "bulkhead.db-*", "content", "snapshots", "containers", "volumes", "trash", "registry"),
    *("*.lock", "cache", "tmp", "seccomp", "networks"),
)


def purge(settings: Settings) -> Iterator[str]:
    """Remove everything, a line of report for each thing that was there.

    Raises Conflict when a directory is not safe to remove, before anything is touched.
    """
    instance = settings.instance
    trees = ((instance.run, _RUN_PATTERNS), (instance.data, _DATA_PATTERNS))
    for directory, _ in trees:
        _refuse_unsafe(directory)
    yield from (f"{service} {what}" for service, what in Daemons(settings).stop().items())
    containers = len(remains.running_containers(instance))
    kill_all(instance)
    if containers:
        yield f"{containers} running container{'s' * (containers != 1)} killed"
    yield from remove_network(instance)
    yield from _unmount_volumes(instance)
    for directory, patterns in trees:
        yield from _remove_tree(directory, patterns)


def _refuse_unsafe(directory: Path) -> None:
    """Only a real directory of this user on one file system: no symlink, no mount inside but volumes'."""
    try:
        found = directory.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode) or directory.resolve() != directory:
        raise Conflict(f"cannot purge {directory}: it is not a plain directory")
    if found.st_uid != os.geteuid():
        raise Conflict(f"cannot purge {directory}: it belongs to user {found.st_uid}")
    inside = f"{directory}/"
    volumes = f"{directory}/volumes/"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if line.split()[4].startswith(inside) and not line.split()[4].startswith(volumes):
            raise Conflict(f"cannot purge {directory}: {line.split()[4]} is mounted there")


def kill_all(instance: Instance) -> None:
    """Kill containers first, then the shims and strays that remain, and remove the empty cgroups.

    Raises Internal when a process outlives SIGKILL or a cgroup cannot be removed.
    """
    last = time.monotonic() + 6 * DEATH_SECONDS
    _kill_groups(instance)
    killed = set[int]()
    while pids := _remaining(instance):
        # Each has had that long to end, however slow a look through all processes is on a busy machine.
        if pids & killed or time.monotonic() > last:
            raise Internal(f"cannot purge: processes outlive SIGKILL for {DEATH_SECONDS:g} s")
        killed |= kill_processes(pids, time.monotonic() + DEATH_SECONDS)
    _remove_cgroups(instance, time.monotonic() + DEATH_SECONDS)


def _remaining(instance: Instance) -> set[int]:
    """Members of its cgroups, and when there are none, whoever else is of it."""
    pids = {pid for parent in remains.cgroup_parents(instance) for pid in remains.cgroup_pids(parent)}
    return pids or set(remains.processes(instance))


def _kill_groups(instance: Instance) -> None:
    """Kill container by container: what is paused does not die before it is thawed."""
    names = {child.name for parent in remains.cgroup_parents(instance) for child in parent.iterdir() if child.is_dir()}
    for name in names:
        with contextlib.suppress(OSError):  # not in the hierarchies where it would be looked for
            Cgroup(f"/{instance.label}/{name}").kill_all()


def kill_processes(pids: set[int], deadline: float) -> set[int]:
    """SIGKILL each and wait for its end, by pidfd; those that have not ended by the deadline."""
    poll = select.poll()
    pidfds = dict[int, int]()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            pidfds[pidfd := os.pidfd_open(pid)] = pid
            poll.register(pidfd, select.POLLIN)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    try:
        while pidfds and time.monotonic() < deadline:
            for pidfd, _ in poll.poll(1000):
                poll.unregister(pidfd)
                del pidfds[pidfd]
                os.close(pidfd)
        return set(pidfds.values())
    finally:
        for pidfd in pidfds:
            os.close(pidfd)


def _remove_cgroups(instance: Instance, deadline: float) -> None:
    for parent in remains.cgroup_parents(instance):
        for directory, _, _ in os.walk(parent, topdown=False):
            remove_cgroup(Path(directory), deadline)


def remove_cgroup(cgroup: Path, deadline: float) -> None:
    """rmdir answers EBUSY for a moment after the last process died."""
    while True:
        try:
            return cgroup.rmdir()
        except FileNotFoundError:
            return None
        except OSError as error:
            if time.monotonic() > deadline:
                raise Internal(f"cannot remove cgroup {cgroup}: {error.strerror}") from error
            time.sleep(0.01)


def remove_network(instance: Instance) -> Iterator[str]:
    """Delete the nft tables, the bridge and the veths on it; a line of report for each.

    Raises Internal when the kernel refuses.
    """
    try:
        found = [*_remove_rules(instance), *_remove_links(instance)]
    except OSError as error:
        raise Internal(f"cannot remove the network of {instance.label}: {error}") from error
    yield from (f"{what} removed" for what in found)


def _unmount_volumes(instance: Instance) -> Iterator[str]:
    """Take off the file systems of volumes and shared memory that were in use."""
    volumes, containers = instance.data / "volumes", instance.data / "containers"
    for target in (*hostmounts.mounted_below(volumes), *hostmounts.mounted_below(containers)):
        try:
            hostmounts.unmount(target)
        except OSError as error:
            raise Internal(f"cannot unmount {target}: {error.strerror}") from error
        yield f"{target.parent.name} unmounted"


def _remove_rules(instance: Instance) -> list[str]:
    try:
        rules = nftables.Nftables()
    except nftables.NftablesMissing:
        return []  # without it no service made a table either
    try:
        return [*_remove_openings(rules, instance.forward_mark), *_remove_tables(rules, instance.nft_table)]
    finally:
        rules.close()


def _remove_openings(rules: nftables.Nftables, mark: str) -> list[str]:
    """Delete what lets this instance's bridges through other firewalls."""
    listed = [item["rule"] for item in rules.forward_chains("DOCKER-USER") if "rule" in item]
    ours = [rule for rule in listed if str(rule.get("comment", "")).startswith(mark)]
    for rule in ours:
        rules.run(f"delete rule {rule['family']} {rule['table']} {rule['chain']} handle {rule['handle']}")
    return [f"nft rule of {rule['family']} {rule['table']} {rule['chain']}" for rule in ours]


def _remove_tables(rules: nftables.Nftables, name: str) -> list[str]:
    families = [family for family in NFT_FAMILIES if rules.table(name, family) is not None]
    for family in families:
        rules.run(f"delete table {family} {name}")
    return [f"nft table {family} {name}" for family in families]


def _remove_links(instance: Instance) -> list[str]:
    """The bridge, and the veths on it whose network namespace has not died yet."""
    removed = []
    with netlink.Netlink() as kernel:
        links = kernel.links()
        bridges = {link.index for link in links if is_made_by(instance, link)}
        for link in links:
            # By their bridge and not by name: the default instance's prefix begins every other's.
            if link.index in bridges or (link.kind == "veth" and link.master in bridges):
                delete_link(kernel, link.name)
                removed.append(f"interface {link.name}")
    return removed


def is_made_by(instance: Instance, link: netlink.Link) -> bool:
    """Its bridges, and what it made for networks that stand on an interface."""
    return link.alias == instance.network_alias or (link.kind == "bridge" and link.name == instance.bridge)


def delete_link(kernel: netlink.Netlink, name: str) -> None:
    """No error if it is gone: a cable goes with its container."""
    try:
        kernel.request(netlink.delete_link(name))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def _remove_tree(directory: Path, patterns: tuple[str, ...]) -> Iterator[str]:
    if not directory.is_dir():
        return
    for entry in directory.iterdir():
        if any(entry.match(pattern) for pattern in patterns):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    try:
        directory.rmdir()
        yield f"{directory} removed"
    except OSError:
        left = sorted(entry.name for entry in directory.iterdir())
        yield f"{directory} kept: it holds {', '.join(left)}, which is not Bulkhead's"
