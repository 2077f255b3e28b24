"""A user's network as its record and Docker's options say that it should be."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, ip_network

from bulkhead.errors import InvalidArgument
from bulkhead.manager.networks.blocks import plan_of_block, version_of
from bulkhead.manager.networks.link_options import DRIVERS, link_plan
from bulkhead.manager.networks.ports import FAMILIES
from bulkhead.model.network import (
    AddressPlan,
    BridgePlan,
    GatewayMode,
    IPNetwork,
    NetworkRecord,
    Plan,
    bridge_name,
)

_BRIDGE = "com.docker.network.bridge."
_MTU = "com.docker.network.driver.mtu"
# What Go's strconv.ParseBool takes.
_TRUE = frozenset(("1", "t", "T", "true", "True", "TRUE"))
_FALSE = frozenset(("0", "f", "F", "false", "False", "FALSE"))


def plan_of(network: NetworkRecord) -> Plan:
    """A user's network as it should be. Raises InvalidArgument for options that cannot be."""
    options = network.options
    v4, v6 = (_addresses(network, version) for version in FAMILIES)
    if network.driver in DRIVERS:
        return link_plan(network, v4, v6, _number(options, _MTU))
    return BridgePlan(
        key=network.id,
        bridge=bridge_name(network.id, options),
        v4=v4,
        v6=v6,
        internal=network.internal,
        interconnected=_flag(options, f"{_BRIDGE}enable_icc"),
        masquerade=_flag(options, f"{_BRIDGE}enable_ip_masquerade"),
        mtu=_number(options, _MTU),
        host_binding=_host_binding(options),
    )


def _addresses(network: NetworkRecord, version: int) -> AddressPlan | None:
    block = next((block for block in network.blocks if version_of(block) == version), None)
    return None if block is None else plan_of_block(block, _gateway_mode(network, version))


def _gateway_mode(network: NetworkRecord, version: int) -> GatewayMode:
    name = f"{_BRIDGE}gateway_mode_ipv{version}"
    text = network.options.get(name, "") or GatewayMode.NAT.value
    try:
        mode = GatewayMode(text)
    except ValueError:
        raise InvalidArgument(f"unknown gateway mode {text}") from None
    if mode is GatewayMode.ISOLATED and not network.internal:
        raise InvalidArgument(f"gateway mode 'isolated' can only be used for an internal network ({name})")
    return mode


def subnets_of(networks: Iterable[NetworkRecord]) -> list[IPNetwork]:
    """The subnets that networks have."""
    return [_subnet(block.subnet) for network in networks for block in network.blocks]


@functools.lru_cache(maxsize=1 << 13)
def _subnet(text: str) -> IPNetwork:
    """Read once: all are asked for whenever one is chosen."""
    return ip_network(text)


def _flag(options: Mapping[str, str], name: str) -> bool:
    text = options.get(name, "true")
    if text not in _TRUE | _FALSE:
        raise _unparsed(name, text, f'strconv.ParseBool: parsing "{text}": invalid syntax')
    return text in _TRUE


def _number(options: Mapping[str, str], name: str) -> int:
    text = options.get(name, "") or "0"
    if not text.isdecimal() or int(text) > 65535:
        raise _unparsed(name, text, f'strconv.Atoi: parsing "{text}": invalid syntax')
    return int(text)


def _host_binding(options: Mapping[str, str]) -> str:
    name = f"{_BRIDGE}host_binding_ipv4"
    text = options.get(name, "")
    try:
        return str(IPv4Address(text)) if text else ""
    except ValueError:
        raise _unparsed(name, text, "nil ip") from None


def _unparsed(name: str, text: str, reason: str) -> InvalidArgument:
    return InvalidArgument(f"failed to parse {name} value: {text} ({reason})")
