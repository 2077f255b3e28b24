"""The default network as the installation's settings say that it should be."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Network, IPv6Network, NetmaskValueError

from bulkhead.errors import InvalidArgument
from bulkhead.model.instance import Instance
from bulkhead.model.network import DEFAULT_NETWORK, AddressPlan, BridgePlan


def default_plan(instance: Instance) -> BridgePlan:
    subnet = _parse_subnet(instance.subnet)
    return BridgePlan(
        key=DEFAULT_NETWORK,
        bridge=instance.bridge,
        v4=AddressPlan(subnet=subnet, gateway=subnet[1] if subnet.prefixlen < 31 else subnet[0]),
        v6=_plan6(instance.subnet6),
    )


def _plan6(subnet: str) -> AddressPlan | None:
    if not subnet:
        return None
    try:
        parsed = IPv6Network(subnet)
    except ValueError as error:
        raise InvalidArgument(f"cannot use subnet {subnet!r}: {error} (BULKHEAD_SUBNET6)") from None
    return AddressPlan(subnet=parsed, gateway=parsed[1])


def _parse_subnet(text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise InvalidArgument(f"cannot use subnet {text!r}: {error} (BULKHEAD_SUBNET)") from None
