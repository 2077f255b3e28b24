"""The kernel's macvlan and ipvlan for `bulkhead.manager.networks`, by rtnetlink."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Collection, Sequence

from bulkhead.errors import NotFound
from bulkhead.linux import netlink
from bulkhead.linux.netlink import Netlink
from bulkhead.linux.netns import enter_netns, new_netns
from bulkhead.manager.adapters.netlink_links import newborn, opened
from bulkhead.manager.adapters.netlink_network import NetlinkKernel
from bulkhead.manager.networks.ports import Branch, Parent, Survey
from bulkhead.model.network import Netns

_LOOPBACK_INDEX = 1
# A predecessor of the same MAC (or of the same parent, for passthru) may still be in its dying namespace.
_BURIAL_SECONDS, _LOOK_SECONDS = 3.0, 0.02
_STILL_THERE = (errno.EBUSY, errno.EADDRINUSE)
_UNKNOWN_KIND = (errno.EOPNOTSUPP,)
_KINDS = ("macvlan", "ipvlan")


class NetlinkBranches:
    """`bulkhead.manager.networks.ports.Branches`, on the threads of a `NetlinkKernel`."""

    def __init__(self, kernel: NetlinkKernel) -> None:
        self._kernel = kernel

    async def survey(self) -> Survey:
        return await self._kernel.survey()

    async def make_parent(self, parent: Parent) -> None:
        await self._kernel.run(f"cannot make interface {parent.name}", lambda: _make_parent(parent))

    async def delete_links(self, names: Sequence[str]) -> None:
        await self._kernel.delete_links(names)

    async def try_out(self, branch: Branch) -> None:
        await self._kernel.run(f"cannot make {branch.driver} links of {branch.parent}", lambda: _try_out(branch))

    async def graft(self, netns: Netns, branch: Branch) -> None:
        await self._kernel.run(f"cannot attach a network namespace to {branch.parent}", lambda: _graft(netns, branch))

    async def cut(self, netns: Netns, interface: str) -> None:
        with contextlib.suppress(NotFound):
            await self._kernel.run(f"cannot delete interface {interface}", lambda: _cut(netns, interface))

    async def clear(self, netns: Netns, parents: Collection[str], kept: Collection[str]) -> None:
        with contextlib.suppress(NotFound):
            await self._kernel.run("cannot delete a dead manager's interfaces", lambda: _sweep(netns, parents, kept))

    async def lead(self, netns: Netns, branch: Branch) -> None:
        await self._kernel.run("cannot set the default route", lambda: _lead(netns, branch))


def _make_parent(parent: Parent) -> None:
    with Netlink() as host:
        if parent.vlan:
            host.request(netlink.vlan(parent.name, socket.if_nametoindex(parent.base), parent.vlan))
        else:
            _dead_end(host, parent.name)
        host.request(netlink.link_alias(parent.name, parent.alias))


def _dead_end(host: Netlink, name: str) -> None:
    """An interface that leads nowhere; a cable that ends on the host where the kernel has no dummies."""
    try:
        host.request(netlink.dummy(name))
    except OSError as error:
        if error.errno not in _UNKNOWN_KIND:
            raise
        far = f"dx{name[2:]}"
        host.request(netlink.cable(name, far))
        host.request(*(netlink.link_up(socket.if_nametoindex(end)) for end in (name, far)))


def _try_out(branch: Branch) -> None:
    """In a namespace that nobody has, so that no moment and no crash leaves a link behind."""
    netns = new_netns()
    try:
        with Netlink() as host:
            # The trial before this one, of a network made a moment ago, may still be in its dying namespace.
            _patiently(lambda: host.request(_link(branch, netns)), _refusals(branch))
    finally:
        os.close(netns)


def _graft(netns: Netns, branch: Branch) -> None:
    with opened(netns) as target, Netlink() as host:
        parent = socket.if_nametoindex(branch.parent)
        enter_netns(target)
        newborn(branch.addresses)
        with Netlink() as inside:
            _clear(inside, {parent}, lambda name: name == branch.interface)
            _patiently(lambda: host.request(_link(branch, target, parent)), _refusals(branch))
            index = socket.if_nametoindex(branch.interface)
            try:
                inside.request(netlink.link_up(_LOOPBACK_INDEX))
                _patiently(lambda: inside.request(netlink.link_up(index)), _STILL_THERE)
                inside.request(*(netlink.add_address(index, address) for address in branch.addresses))
                inside.request(*_ways(branch, index))
            except BaseException:
                inside.request(netlink.delete_link(branch.interface))
                raise


def _clear(inside: Netlink, parents: Collection[int], unwanted: Callable[[str], bool]) -> None:
    """Delete links, chosen by name, of those parents on the host: a manager made them and died before it was on record.

    What a container has made for itself is known by its parent, which is in the container's own namespace.
    """
    for link in inside.links():
        ours = link.kind in _KINDS and link.parent in parents and link.parent_netns >= 0
        if ours and unwanted(link.name):
            inside.request(netlink.delete_link(link.name))


def _sweep(netns: Netns, parents: Collection[str], kept: Collection[str]) -> None:
    with opened(netns) as target:
        with Netlink() as host:
            indexes = {link.index for link in host.links() if link.name in parents}
        enter_netns(target)
        with Netlink() as inside:
            _clear(inside, indexes, lambda name: name not in kept)


def _cut(netns: Netns, interface: str) -> None:
    with opened(netns) as target:
        enter_netns(target)
        with Netlink() as inside:
            try:
                inside.request(netlink.delete_link(interface))
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise


def _lead(netns: Netns, branch: Branch) -> None:
    with opened(netns) as target:
        enter_netns(target)
        with Netlink() as inside:
            inside.request(*_ways(branch, socket.if_nametoindex(branch.interface)))


def _ways(branch: Branch, index: int) -> list[bytes]:
    routes = [netlink.set_default_route(index, gateway) for gateway in branch.gateways]
    return [*routes, *(netlink.set_direct_route(index, version) for version in branch.direct)]


def _link(branch: Branch, netns: int, parent: int | None = None) -> bytes:
    index = socket.if_nametoindex(branch.parent) if parent is None else parent
    if branch.driver == "ipvlan":
        return netlink.ipvlan(branch.interface, index, netns=netns, mode=branch.mode, flag=branch.flag, mtu=branch.mtu)
    return netlink.macvlan(branch.interface, index, netns=netns, mac=branch.mac, mode=branch.mode, mtu=branch.mtu)


def _refusals(branch: Branch) -> Collection[int]:
    """What the kernel says while a predecessor is there."""
    return (*_STILL_THERE, errno.EINVAL) if branch.mode == "passthru" else _STILL_THERE


def _patiently(request: Callable[[], None], refusals: Collection[int]) -> None:
    """Again and again while what was there before is being buried."""
    deadline = time.monotonic() + _BURIAL_SECONDS
    while True:
        try:
            return request()
        except OSError as error:
            if error.errno not in refusals or time.monotonic() > deadline:
                raise
        time.sleep(_LOOK_SECONDS)
