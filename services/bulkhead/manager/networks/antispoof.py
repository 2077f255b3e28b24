"""Who may say who they are on a bridge: no container uses another's address or MAC, or the gateway's.

    table bridge <name>
      interfaces  the host ends of our veths
      addresses   addresses that have a holder: the gateway's and every endpoint's
      macs        likewise
      holders     interface . MAC . address   who may use such an address, in IP and in ARP
      seats       interface . MAC             who may use such a MAC at all
      ingress     drops the rest; and IPv6, which these networks do not have

An address of nobody is let through: containers that route for others (kind's nodes do) are no thieves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address

from bulkhead.manager.networks.ports import Bridge
from bulkhead.manager.networks.tables import Elements, Layout, Table
from bulkhead.model.network import Endpoint

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
    },
)
_RULES = {
    "ingress": (
        "iifname @interfaces ether type ip6 drop",
        "iifname @interfaces ether saddr @macs iifname . ether saddr != @seats drop",
        "iifname @interfaces ip saddr @addresses iifname . ether saddr . ip saddr != @holders drop",
        "iifname @interfaces arp saddr ip @addresses iifname . arp saddr ether . arp saddr ip != @holders drop",
    )
}


def desired(name: str, bridges: Sequence[Bridge], endpoints: Iterable[Endpoint]) -> Table:
    """The table as it should be for these bridges and live endpoints."""
    gateways: list[Elements] = [
        {"addresses": {(str(bridge.address.ip),): ""}, "macs": {(bridge.mac,): ""}} for bridge in bridges
    ]
    return LAYOUT.table(name, _RULES, [*gateways, *(elements_of(endpoint) for endpoint in endpoints)])


def elements_of(endpoint: Endpoint) -> Elements:
    """The set elements that seat an endpoint."""
    interface, mac, address = endpoint.host_interface, endpoint.mac, str(IPv4Address(endpoint.address))
    return {
        "interfaces": {(interface,): ""},
        "addresses": {(address,): ""},
        "macs": {(mac,): ""},
        "holders": {(interface, mac, address): ""},
        "seats": {(interface, mac): ""},
    }


def probe(name: str) -> list[str]:
    """A transaction that leaves nothing, and fails on a kernel that cannot filter on bridges."""
    ((chain, (kind, hook, priority)),) = LAYOUT.hooks.items()
    table = f"{LAYOUT.family} {name}_probe"
    return [
        f"add table {table}",
        f"add chain {table} {chain} {{ type {kind} hook {hook} priority {priority}; policy accept; }}",
        f"add rule {table} {chain} ether type arp arp saddr ip 0.0.0.0 accept",
        f"delete table {table}",
    ]
