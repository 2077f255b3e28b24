"""What goes in and out of the networks: published ports, masquerading, isolation.

table inet <name>
  published      address . protocol . port -> container address . port   one host address
  published_any  protocol . port           -> container address . port   every host address
  published6, published6_any               the same of IPv6
  exposed        container address . protocol . port    reached there, on a routed network (and exposed6)
  guard          what comes from a bridge never claims to be, or reaches, the host's loopback
  prerouting     published ports for packets that arrive
  output         published ports for the host's own packets, localhost included
  postrouting    containers leave under the host's address; loopback clients get the gateway's
  forward        into a bridge: answers, its own containers, published ports; nothing else
                 out of an internal one: nothing
                 into others' bridges: published ports, where another firewall was opened for us
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address

from bulkhead.manager.networks.ports import Bridge
from bulkhead.manager.networks.tables import Elements, Key, Layout, Table
from bulkhead.model.network import ANY, ANY6, PROTOCOL_NUMBERS, AddressPlan, Endpoint, GatewayMode, PortBinding

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
    },
)
_DNAT = (
    "meta nfproto ipv4 dnat ip to ip daddr . meta l4proto . th dport map @published",
    "meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport map @published_any",
    "meta nfproto ipv6 dnat ip6 to ip6 daddr . meta l4proto . th dport map @published6",
    "meta nfproto ipv6 fib daddr type local dnat ip6 to meta l4proto . th dport map @published6_any",
)
_TO_LOOPBACK = "ip daddr 127.0.0.0/8"
# The kernel takes no answer from a bridge for ::1: whoever is there on the host listens for himself, shims included.
_TO_LOOPBACK6 = "ip6 daddr ::1"


def desired(
    name: str, bridges: Sequence[Bridge], endpoints: Iterable[Endpoint], uplinks: Sequence[str] | None = None
) -> Table:
    """The table as it should be for these bridges and live endpoints.

    `uplinks` are the host's ways out when another firewall, which drops by default, accepts our bridges: what it kept
    from the networks of others (their bridges, dockerd's say) we keep from them ourselves. None without one.
    """
    rules = _rules(bridges)
    if uplinks is not None and bridges:
        rules["forward"] += [_fence(bridges, uplinks)]
    return LAYOUT.table(name, rules, (elements_of(endpoint) for endpoint in endpoints))


def elements_of(endpoint: Endpoint) -> Elements:
    """The map elements that publish an endpoint's ports."""
    held: dict[str, dict[Key, str]] = {name: {} for name in LAYOUT.types}
    for port in endpoint.ports:
        if endpoint.relays_port(port):
            continue
        collection, key, value = _element(endpoint, port)
        held[collection][key] = value
    return held


def _fence(bridges: Sequence[Bridge], uplinks: Sequence[str]) -> str:
    ours, ways_out = _interfaces(bridge.name for bridge in bridges), _interfaces(uplinks)
    besides = f"oifname != {ways_out} " if uplinks else ""
    return f'iifname {ours} {besides}meta oifkind "bridge" ct status & dnat == 0 drop'


def _interfaces(names: Iterable[str]) -> str:
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"{{ {quoted} }}"


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


def _rules(bridges: Sequence[Bridge]) -> dict[str, list[str]]:
    rules: dict[str, list[str]] = {
        "guard": [],
        # A neighbour may send anything: only the host itself reaches what is published on 127.0.0.1.
        "prerouting": [f"{_TO_LOOPBACK} return", f"{_TO_LOOPBACK6} return", *_DNAT],
        "output": [f"{_TO_LOOPBACK6} return", *_DNAT],
        "postrouting": [],
        "forward": ["ct state established,related accept"],
    }
    for bridge in bridges:
        name = f'"{bridge.name}"'
        if bridge.v4 is not None:
            # route_localnet opens both directions; the guard closes the one that nobody needs.
            rules["guard"] += [f"iifname {name} {_TO_LOOPBACK} drop", f"iifname {name} ip saddr 127.0.0.0/8 drop"]
        rules["postrouting"] += _translations(bridge, name)
        rules["forward"] += _passages(bridge, name)
    return rules


def _translations(bridge: Bridge, name: str) -> list[str]:
    """Which packets leave under the host's address."""
    rules = []
    for plan, word in bridge.families:
        from_it = f"{word} saddr {plan.subnet}"
        if bridge.masquerade and not bridge.internal and plan.mode is not GatewayMode.ROUTED:
            rules += [f"oifname != {name} {from_it} masquerade"]
        if word == "ip":
            rules += [f"oifname {name} ip saddr 127.0.0.0/8 masquerade"]
        # A container calls a published port of its own network: the answer must come back through us.
        rules += [f"oifname {name} {from_it} ct status dnat masquerade"]
    return rules


def _passages(bridge: Bridge, name: str) -> list[str]:
    """Which packets cross the host into the bridge, or out of it."""
    rules = [f"iifname {name} oifname {name} {'accept' if bridge.interconnected else 'drop'}"]
    if bridge.internal:
        rules += [f"iifname {name} drop"]
    else:
        rules += [f"oifname {name} ct status dnat accept"]
        rules += [each for plan, word in bridge.families for each in _openings(plan, word, name)]
    return [*rules, f"oifname {name} drop"]


def _openings(plan: AddressPlan, word: str, name: str) -> list[str]:
    """What else reaches containers at their own addresses."""
    to_it = f"oifname {name} {word} daddr {plan.subnet}"
    if plan.mode is GatewayMode.UNPROTECTED:
        return [f"{to_it} accept"]
    if plan.mode is GatewayMode.ROUTED:
        echo = "icmp type echo-request" if word == "ip" else "icmpv6 type echo-request"
        family = "" if word == "ip" else "6"
        return [f"{to_it} {echo} accept", f"{to_it} {word} daddr . meta l4proto . th dport @exposed{family} accept"]
    return []
