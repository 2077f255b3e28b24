"""What interfaces, addresses and routes the host has, by rtnetlink."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from bulkhead.linux import netlink
from bulkhead.linux.netlink import Netlink
from bulkhead.manager.networks.ports import Interface, Survey
from bulkhead.model.network import IPInterface, IPNetwork


def survey() -> Survey:
    with Netlink() as host:
        links, addresses, routes = host.links(), host.addresses(), host.routes()
    names = {link.index: link.name for link in links}
    held: dict[int, list[IPInterface]] = {}
    for index, address in addresses:
        held.setdefault(index, []).append(address)
    interfaces = {link.name: _interface(link, names.get(link.master, ""), held.get(link.index, ())) for link in links}
    return Survey(
        interfaces=interfaces,
        routes=tuple((route.destination, names.get(route.index, "")) for route in routes),
    )


def look(name: str, networks: Sequence[IPNetwork]) -> Survey:
    with Netlink() as host:
        named = host.link(name)
        routes = host.routes_across(networks)
        addresses = host.addresses_within(networks, of=named.index if named is not None else 0)
        # Last: whoever has a route or an address has a name.
        indices = {*(route.index for route in routes), *(index for index, _ in addresses)}
        names = {index: _name_of(index) for index in indices}
        links = [found for each in {name, *names.values()} if each and (found := host.link(each)) is not None]
    held: dict[int, list[IPInterface]] = {}
    for index, address in addresses:
        held.setdefault(index, []).append(address)
    return Survey(
        interfaces={link.name: _interface(link, "", held.get(link.index, ())) for link in links},
        routes=tuple((route.destination, names[route.index]) for route in routes),
    )


def _interface(link: netlink.Link, master: str, addresses: Sequence[IPInterface]) -> Interface:
    return Interface(
        name=link.name,
        kind=link.kind,
        master=master,
        mtu=link.mtu,
        up=link.up,
        alias=link.alias,
        addresses=tuple(addresses),
    )


def _name_of(index: int) -> str:
    """Of an interface; none for several, or when it is gone."""
    try:
        return socket.if_indextoname(index) if index else ""
    except OSError:
        return ""
