"""What goes in and out of the networks: published ports, masquerading, isolation.

table inet <name>
  published      address . protocol . port -> container address . port   one host address
  published_any  protocol . port           -> container address . port   every host address
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
from ipaddress import IPv4Address

from bulkhead.manager.networks.ports import Bridge
from bulkhead.manager.networks.tables import Elements, Key, Layout, Table
from bulkhead.model.network import PROTOCOL_NUMBERS, WILDCARD, Endpoint

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
    },
)
_DNAT = (
    "meta nfproto ipv4 dnat ip to ip daddr . meta l4proto . th dport map @published",
    "meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport map @published_any",
)
_TO_LOOPBACK = "ip daddr 127.0.0.0/8"


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
    address = IPv4Address(endpoint.address)
    for port in endpoint.ports:
        key = (str(PROTOCOL_NUMBERS[port.protocol]), str(port.host_port))
        target = f"{address} . {port.container_port}"
        host = IPv4Address(port.host_ip) if port.host_ip else WILDCARD
        if host == WILDCARD:
            held["published_any"][key] = target
        else:
            held["published"][(str(host), *key)] = target
    return held


def _fence(bridges: Sequence[Bridge], uplinks: Sequence[str]) -> str:
    ours, ways_out = _interfaces(bridge.name for bridge in bridges), _interfaces(uplinks)
    besides = f"oifname != {ways_out} " if uplinks else ""
    return f'iifname {ours} {besides}meta oifkind "bridge" ct status & dnat == 0 drop'


def _interfaces(names: Iterable[str]) -> str:
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"{{ {quoted} }}"


def _rules(bridges: Sequence[Bridge]) -> dict[str, list[str]]:
    rules: dict[str, list[str]] = {
        "guard": [],
        # A neighbour may send anything: only the host itself reaches what is published on 127.0.0.1.
        "prerouting": [f"{_TO_LOOPBACK} return", *_DNAT],
        "output": [*_DNAT],
        "postrouting": [],
        "forward": ["ct state established,related accept"],
    }
    for bridge in bridges:
        name, subnet = f'"{bridge.name}"', bridge.subnet
        # route_localnet opens both directions; the guard closes the one that nobody needs.
        rules["guard"] += [f"iifname {name} {_TO_LOOPBACK} drop", f"iifname {name} ip saddr 127.0.0.0/8 drop"]
        if bridge.masquerade and not bridge.internal:
            rules["postrouting"] += [f"oifname != {name} ip saddr {subnet} masquerade"]
        rules["postrouting"] += [
            f"oifname {name} ip saddr 127.0.0.0/8 masquerade",
            # A container calls a published port of its own network: the answer must come back through us.
            f"oifname {name} ip saddr {subnet} ct status dnat masquerade",
        ]
        rules["forward"] += [f"iifname {name} oifname {name} {'accept' if bridge.interconnected else 'drop'}"]
        if bridge.internal:
            rules["forward"] += [f"iifname {name} drop"]
        else:
            rules["forward"] += [f"oifname {name} ct status dnat accept"]
        rules["forward"] += [f"oifname {name} drop"]
    return rules
