"""Who may say who they are on a bridge: no container uses another's address or MAC, or the gateway's.

    table bridge <name>
      interfaces  the host ends of our veths
      addresses   addresses that have a holder: the gateway's and every endpoint's
      macs        likewise
      holders     interface . MAC . address   who may use such an address, in IP and in ARP
      seats       interface . MAC             who may use such a MAC at all
      addresses6, holders6                    the same of IPv6, link-local ones included
      targets6    interface . MAC . address   who may answer neighbours that ask for it
      claimed6    addresses6 once more, as such answers have them
      without6    interfaces on networks without IPv6: no such packet passes
      ingress     drops the rest; and who plays the IPv6 router

An address of nobody is let through: containers that route for others (kind's nodes do) are no thieves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv6Address

from bulkhead.manager.networks.ports import LINK_GATEWAY, Bridge
from bulkhead.manager.networks.tables import Elements, Key, Layout, Table
from bulkhead.model.network import Endpoint, IPAddress, link_local, parsed

_TARGET = "@th,64,128"
LAYOUT = Layout(
    family="bridge",
    # Before br_netfilter's own hook (0) hands the frame to the IP layer's.
    hooks={"ingress": ("filter", "prerouting", -300)},
    types={
        "interfaces": ("ifname", ""),
        "addresses": ("ipv4_addr", ""),
        "macs": ("ether_addr", ""),
        "holders": ("ifname . ether_addr . ipv4_addr", ""),
        "seats": ("ifname . ether_addr", ""),
        "addresses6": ("ipv6_addr", ""),
        "holders6": ("ifname . ether_addr . ipv6_addr", ""),
        "targets6": ("ifname . ether_addr . integer", ""),
        "claimed6": ("integer", ""),
        "without6": ("ifname", ""),
    },
    # What a neighbour advertisement is about has no name in older nft versions.
    spelled={"targets6": f"typeof iifname . ether saddr . {_TARGET}", "claimed6": f"typeof {_TARGET}"},
)
_RULES = {
    "ingress": (
        "iifname @without6 ether type ip6 drop",
        "iifname @interfaces ether saddr @macs iifname . ether saddr != @seats drop",
        "iifname @interfaces ip saddr @addresses iifname . ether saddr . ip saddr != @holders drop",
        "iifname @interfaces arp saddr ip @addresses iifname . arp saddr ether . arp saddr ip != @holders drop",
        "iifname @interfaces icmpv6 type { nd-router-advert, nd-redirect } drop",
        "iifname @interfaces ip6 saddr @addresses6 iifname . ether saddr . ip6 saddr != @holders6 drop",
        f"iifname @interfaces icmpv6 type nd-neighbor-advert {_TARGET} @claimed6 "
        f"iifname . ether saddr . {_TARGET} != @targets6 drop",
    )
}


def desired(name: str, bridges: Sequence[Bridge], endpoints: Iterable[Endpoint]) -> Table:
    """The table as it should be for these bridges and live endpoints."""
    gateways = [elements_of_bridge(bridge) for bridge in bridges]
    return LAYOUT.table(name, _RULES, [_ROUTER, *gateways, *(elements_of(endpoint) for endpoint in endpoints)])


def elements_of_bridge(bridge: Bridge) -> Elements:
    """The set elements that keep its gateway's addresses and MAC for the host."""
    own = _addresses(bridge, 6)
    return {
        "addresses": {(str(each),): "" for each in _addresses(bridge, 4)},
        "addresses6": {(str(each),): "" for each in own},
        "claimed6": {(_claim(each),): "" for each in own},
        "macs": {(bridge.mac,): ""},
    }


def elements_of(endpoint: Endpoint) -> Elements:
    """The set elements that seat an endpoint."""
    interface, mac = endpoint.host_interface, endpoint.mac
    held: dict[str, dict[Key, str]] = {
        "interfaces": {(interface,): ""},
        "macs": {(mac,): ""},
        "seats": {(interface, mac): ""},
    }
    if endpoint.address:
        address = str(parsed(endpoint.address))
        held |= {"addresses": {(address,): ""}, "holders": {(interface, mac, address): ""}}
    if not endpoint.address6:
        return held | {"without6": {(interface,): ""}}
    own = (IPv6Address(endpoint.address6), link_local(mac))
    held["addresses6"] = {(str(address),): "" for address in own}
    held["holders6"] = {(interface, mac, str(address)): "" for address in own}
    held["targets6"] = {(interface, mac, _claim(address)): "" for address in own}
    held["claimed6"] = {(_claim(address),): "" for address in own}
    return held


def _addresses(bridge: Bridge, version: int) -> list[IPAddress]:
    """What the host alone is called, on this bridge alone."""
    own = [each.ip for each in bridge.addresses if each.version == version]
    return [*own, link_local(bridge.mac)] if bridge.v6 and version == 6 else own


def _claim(address: IPAddress) -> str:
    return f"{int(address):#x}"


# What a router is called on every bridge: whichever of them there are.
_ROUTER: Elements = {
    "addresses6": {(str(LINK_GATEWAY.ip),): ""},
    "claimed6": {(_claim(LINK_GATEWAY.ip),): ""},
}


def probe(name: str) -> list[str]:
    """A transaction that leaves nothing, and fails on a kernel that cannot filter on bridges."""
    ((chain, (kind, hook, priority)),) = LAYOUT.hooks.items()
    table = f"{LAYOUT.family} {name}_probe"
    return [
        f"add table {table}",
        f"add chain {table} {chain} {{ type {kind} hook {hook} priority {priority}; policy accept; }}",
        f"add rule {table} {chain} ether type arp arp saddr ip 0.0.0.0 accept",
        f"add rule {table} {chain} icmpv6 type nd-neighbor-advert {_TARGET} 0 accept",
        f"delete table {table}",
    ]
