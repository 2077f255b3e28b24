"""Which of a container's port bindings the host answers, and where, as its network's families say."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from ipaddress import IPv6Address

from bulkhead.errors import InvalidArgument
from bulkhead.model.network import ANY, ANY6, AddressPlan, BridgePlan, GatewayMode, PortBinding


def wildcards(plan: BridgePlan, translated: Collection[int]) -> list[str]:
    """Where the host answers ports that name no address of it."""
    found = {4: plan.host_binding} if plan.host_binding else {4: ANY, 6: ANY6}
    return [address for version, address in found.items() if version in translated]


def is_answered(port: PortBinding, plan: BridgePlan, open_to: Sequence[AddressPlan]) -> bool:
    """Whether the host can answer there for a container with these families.

    Raises InvalidArgument for an IPv4 address when the network has no IPv4, and for what cannot be relayed.
    """
    version = port.version
    relayed = port.is_ipv6 and (plan.v6 is None or IPv6Address(port.host_ip).is_loopback)
    if relayed and open_to and port.protocol == "sctp":
        raise InvalidArgument(
            f"cannot publish port {port.container_port}/sctp on [{port.host_ip}]: the kernel does not lead from there "
            "to the container's network, and only tcp and udp are carried over by hand"
        )
    if not port.host_ip or relayed or any(each.subnet.version == version for each in open_to):
        return bool(open_to)
    if open_to and not any(each.subnet.version == version for each in plan.families):
        raise InvalidArgument(
            f"cannot publish port {port.container_port}/{port.protocol} on {port.host_ip}: "
            f"the container's network has no IPv{version}"
        )
    return False


def is_booked(port: PortBinding, plan: BridgePlan, translated: Collection[int]) -> bool:
    """Whether a port of the host is needed; IPv6's for a network without it is relayed to its IPv4."""
    if not port.host_ip:
        return bool(wildcards(plan, translated))
    return port.version in translated or (port.is_ipv6 and plan.v6 is None and 4 in translated)


def unrelayed(port: PortBinding) -> PortBinding:
    """What cannot be carried over by hand has IPv4 alone where the network has no IPv6."""
    return replace(port, host_ip=ANY) if port.protocol == "sctp" and not port.host_ip else port


def reached_directly(ports: Sequence[PortBinding], open_to: Sequence[AddressPlan]) -> tuple[PortBinding, ...]:
    """The bindings of routed families: without a port of the host."""
    routed = [ANY if each.subnet.version == 4 else ANY6 for each in open_to if each.mode is GatewayMode.ROUTED]
    return tuple(
        replace(port, host_ip=wildcard, host_port=0, host_port_end=0)
        for port in ports
        for wildcard in routed
        if not port.host_ip or (":" in port.host_ip) is (":" in wildcard)
    )
