"""What goes in and out of the networks: published ports, masquerading, isolation.

table inet <name>
  published      address . protocol . port -> container address . port   one host address
  published_any  protocol . port           -> container address . port   every host address
  published6, published6_any               the same of IPv6
  exposed        container address . protocol . port    reached there, on a routed network (and exposed6)
  bridges        all of ours
  bridges4       those with IPv4
  internal       those that nothing leaves
  reached        those that published ports lead into
  connected      bridge . bridge (the same one)   its containers reach each other
  separated      bridge . bridge (the same one)   they do not
  home           subnet . its bridge
  masqueraded    subnets that leave under the host's address
  unprotected    subnet . its bridge, where every port is reached
  routed         subnet . its bridge, where the exposed ports are
  home6, masqueraded6, unprotected6, routed6      the same of IPv6
  guard          what comes from a bridge never claims to be, or reaches, the host's loopback
  prerouting     published ports for packets that arrive
  output         published ports for the host's own packets, localhost included
  postrouting    containers leave under the host's address; loopback clients get the gateway's
  forward        into a bridge: answers, its own containers, published ports; nothing else
                 out of an internal one: nothing
                 into others' bridges: published ports, where another firewall was opened for us

The rules are the same however many networks there are: what a packet costs does not depend on that, nor what one more
network does. (Of a set of networks' concatenations the kernel takes elements away by looking at all: four times as fast
with the address in front.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_network
from itertools import pairwise

from bulkhead.manager.networks.ports import Bridge
from bulkhead.manager.networks.tables import Elements, Key, Layout, Table
from bulkhead.model.network import ANY, ANY6, PROTOCOL_NUMBERS, Endpoint, GatewayMode, IPNetwork, PortBinding
from bulkhead.model.replacing import replace

LAYOUT = Layout(
    family="inet",
    hooks={
        "guard": ("filter", "prerouting", -300),
        "prerouting": ("nat", "prerouting", -100),
        "output": ("nat", "output", -100),
        "postrouting": ("nat", "postrouting", 100),
        "forward": ("filter", "forward", 0),
    },
    types={
        "published": ("ipv4_addr . inet_proto . inet_service", "ipv4_addr . inet_service"),
        "published_any": ("inet_proto . inet_service", "ipv4_addr . inet_service"),
        "published6": ("ipv6_addr . inet_proto . inet_service", "ipv6_addr . inet_service"),
        "published6_any": ("inet_proto . inet_service", "ipv6_addr . inet_service"),
        "exposed": ("ipv4_addr . inet_proto . inet_service", ""),
        "exposed6": ("ipv6_addr . inet_proto . inet_service", ""),
        "bridges": ("ifname", ""),
        "bridges4": ("ifname", ""),
        "internal": ("ifname", ""),
        "reached": ("ifname", ""),
        "connected": ("ifname . ifname", ""),
        "separated": ("ifname . ifname", ""),
        "home": ("ipv4_addr . ifname", ""),
        "home6": ("ipv6_addr . ifname", ""),
        "masqueraded": ("ipv4_addr", ""),
        "masqueraded6": ("ipv6_addr", ""),
        "unprotected": ("ipv4_addr . ifname", ""),
        "unprotected6": ("ipv6_addr . ifname", ""),
        "routed": ("ipv4_addr . ifname", ""),
        "routed6": ("ipv6_addr . ifname", ""),
    },
    intervals=frozenset(
        f"{collection}{family}"
        for collection in ("home", "masqueraded", "unprotected", "routed")
        for family in ("", "6")
    ),
)
_DNAT = (
    "meta nfproto ipv4 dnat ip to ip daddr . meta l4proto . th dport map @published",
    "meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport map @published_any",
    "meta nfproto ipv6 dnat ip6 to ip6 daddr . meta l4proto . th dport map @published6",
    "meta nfproto ipv6 fib daddr type local dnat ip6 to meta l4proto . th dport map @published6_any",
)
# What reaches containers at their own addresses, by the set that says so.
_OPENINGS = {GatewayMode.UNPROTECTED: "unprotected", GatewayMode.ROUTED: "routed"}
_TO_LOOPBACK = "ip daddr 127.0.0.0/8"
# The kernel takes no answer from a bridge for ::1: whoever is there on the host listens for himself, shims included.
_TO_LOOPBACK6 = "ip6 daddr ::1"


_RULES = {
    # route_localnet opens both directions; the guard closes the one that nobody needs.
    "guard": (f"iifname @bridges4 {_TO_LOOPBACK} drop", "iifname @bridges4 ip saddr 127.0.0.0/8 drop"),
    # A neighbour may send anything: only the host itself reaches what is published on 127.0.0.1.
    "prerouting": (f"{_TO_LOOPBACK} return", f"{_TO_LOOPBACK6} return", *_DNAT),
    "output": (f"{_TO_LOOPBACK6} return", *_DNAT),
    "postrouting": (
        # A container calls a published port of its own network: the answer must come back through us.
        "ip saddr . oifname @home ct status dnat masquerade",
        "ip saddr . oifname @home return",
        "ip saddr @masqueraded masquerade",
        "oifname @bridges4 ip saddr 127.0.0.0/8 masquerade",
        "ip6 saddr . oifname @home6 ct status dnat masquerade",
        "ip6 saddr . oifname @home6 return",
        "ip6 saddr @masqueraded6 masquerade",
    ),
    "forward": (
        "ct state established,related accept",
        "iifname . oifname @connected accept",
        "iifname . oifname @separated drop",
        "iifname @internal drop",
        "oifname @reached ct status dnat accept",
        "ip daddr . oifname @unprotected accept",
        "ip6 daddr . oifname @unprotected6 accept",
        "ip daddr . oifname @routed icmp type echo-request accept",
        "ip daddr . oifname @routed ip daddr . meta l4proto . th dport @exposed accept",
        "ip6 daddr . oifname @routed6 icmpv6 type echo-request accept",
        "ip6 daddr . oifname @routed6 ip6 daddr . meta l4proto . th dport @exposed6 accept",
        "oifname @bridges drop",
    ),
}


def desired(
    name: str, bridges: Sequence[Bridge], endpoints: Iterable[Endpoint], uplinks: Sequence[str] | None = None
) -> Table:
    """The table as it should be for these bridges and live endpoints.

    `uplinks` are the host's ways out when another firewall, which drops by default, accepts our bridges: what it kept
    from the networks of others (their bridges, dockerd's say) we keep from them ourselves. None without one.
    """
    fence = () if uplinks is None else (_fence(uplinks),)
    rules = {**_RULES, "forward": (*_RULES["forward"], *fence)}
    of_bridges = [elements_of_bridge(bridge) for bridge in bridges]
    table = LAYOUT.table(name, rules, [*of_bridges, *(elements_of(endpoint) for endpoint in endpoints)])
    widest = {f"masqueraded{family}": _widest(table.elements[f"masqueraded{family}"]) for family in ("", "6")}
    return replace(table, elements={**table.elements, **widest})


def are_overlapping(bridges: Iterable[Bridge]) -> bool:
    """Whether some bridges' subnets are parts of others'."""
    subnets = (plan.subnet for bridge in bridges for plan, _ in bridge.families)
    in_order = sorted(subnets, key=lambda each: (each.version, int(each.network_address), each.prefixlen))
    return any(one.version == other.version and other[0] in one for one, other in pairwise(in_order))


def _widest(subnets: Mapping[Key, str]) -> Mapping[Key, str]:
    """Without those that are part of others: the kernel takes no intervals that overlap. Networks' subnets do only
    where the default one's was set to what a user's has already."""
    kept: dict[Key, str] = {}
    last: IPNetwork | None = None
    for subnet in sorted((ip_network(text) for (text,) in subnets), key=lambda each: (int(each[0]), each.prefixlen)):
        if last is None or subnet[0] not in last:
            kept[str(subnet),], last = "", subnet
    return kept


def elements_of(endpoint: Endpoint) -> Elements:
    """The map elements that publish an endpoint's ports."""
    held: dict[str, dict[Key, str]] = {}
    for port in endpoint.ports:
        if endpoint.relays_port(port):
            continue
        collection, key, value = _element(endpoint, port)
        held.setdefault(collection, {})[key] = value
    return held


def elements_of_bridge(bridge: Bridge) -> Elements:
    """The set elements that make a bridge what it is."""
    itself: dict[Key, str] = {(bridge.name,): ""}
    held: dict[str, dict[Key, str]] = {
        "bridges": itself,
        "internal" if bridge.internal else "reached": itself,
        "connected" if bridge.interconnected else "separated": {(bridge.name, bridge.name): ""},
    }
    if bridge.v4 is not None:
        held["bridges4"] = itself
    for plan, word in bridge.families:
        family = "" if word == "ip" else "6"
        home: dict[Key, str] = {(str(plan.subnet), bridge.name): ""}
        held[f"home{family}"] = home
        if bridge.masquerade and not bridge.internal and plan.mode is not GatewayMode.ROUTED:
            held[f"masqueraded{family}"] = {(str(plan.subnet),): ""}
        if not bridge.internal and (collection := _OPENINGS.get(plan.mode)) is not None:
            held[f"{collection}{family}"] = home
    return held


def _fence(uplinks: Sequence[str]) -> str:
    quoted = ", ".join(f'"{name}"' for name in uplinks)
    besides = f"oifname != {{ {quoted} }} " if uplinks else ""
    return f'iifname @bridges {besides}meta oifkind "bridge" ct status & dnat == 0 drop'


def _element(endpoint: Endpoint, port: PortBinding) -> tuple[str, Key, str]:
    """Which map or set publishes the port, and how."""
    protocol = str(PROTOCOL_NUMBERS[port.protocol])
    family = "6" if port.is_ipv6 else ""
    address = str(IPv6Address(endpoint.address6) if port.is_ipv6 else IPv4Address(endpoint.address))
    if not port.host_port:
        return f"exposed{family}", (address, protocol, str(port.container_port)), ""
    target = f"{address} . {port.container_port}"
    if port.host_ip in (ANY, ANY6, ""):
        return f"published{family}_any", (protocol, str(port.host_port)), target
    host = str(IPv6Address(port.host_ip) if port.is_ipv6 else IPv4Address(port.host_ip))
    return f"published{family}", (host, protocol, str(port.host_port)), target
