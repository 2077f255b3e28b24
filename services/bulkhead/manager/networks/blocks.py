"""Subnets for new networks: what a user wrote, checked; or the next free one of the default pools."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_network

from bulkhead.errors import Forbidden, InvalidArgument, NotFound, NotImplementedYet
from bulkhead.model.network import AddressBlock

# Docker's: (pool, prefix length of the networks cut from it).
DEFAULT_POOLS = (
    *((IPv4Network(f"172.{second}.0.0/16"), 16) for second in range(17, 32)),
    (IPv4Network("192.168.0.0/16"), 20),
)
_LONGEST_PREFIX = 30


def choose(
    wanted: Sequence[AddressBlock],
    taken: Sequence[IPv4Network],
    routed: Sequence[IPv4Network],
    pools: Iterable[tuple[IPv4Network, int]] = DEFAULT_POOLS,
) -> AddressBlock:
    """The IPv4 block of a new network, its gateway named.

    `taken` are the subnets of networks, `routed` what the host has routes to: users may have that, defaults avoid it.
    Raises InvalidArgument, Forbidden (an overlap), NotFound (no pool left) with Docker's texts.
    """
    v4 = [block for block in wanted if not _is_ipv6(block)]
    if len(v4) > 1:
        raise NotImplementedYet("a network of several IPv4 subnets is not supported by this engine")
    if not v4 or not v4[0].subnet:
        return _default(v4[0] if v4 else AddressBlock(subnet=""), [*taken, *routed], pools)
    return _checked(v4[0], taken)


def pool_of(block: AddressBlock) -> tuple[IPv4Network, IPv4Address, IPv4Network | None, tuple[IPv4Address, ...]]:
    """Subnet, gateway, the part that is given out, reserved addresses."""
    ip_range = IPv4Network(block.ip_range) if block.ip_range else None
    reserved = tuple(IPv4Address(address) for address in block.reserved.values())
    return IPv4Network(block.subnet), IPv4Address(block.gateway), ip_range, reserved


def _is_ipv6(block: AddressBlock) -> bool:
    return ":" in (block.subnet or block.gateway)


def _default(
    block: AddressBlock, avoid: Sequence[IPv4Network], pools: Iterable[tuple[IPv4Network, int]]
) -> AddressBlock:
    if block.gateway or block.ip_range or block.reserved:
        raise InvalidArgument("invalid ipam config: a gateway, an ip-range or addresses need a subnet")
    for subnet in _cut(pools):
        if not any(subnet.overlaps(other) for other in avoid):
            return AddressBlock(subnet=str(subnet), gateway=str(subnet[1]))
    raise NotFound(
        "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network"
    )


def _cut(pools: Iterable[tuple[IPv4Network, int]]) -> Iterator[IPv4Network]:
    for pool, prefix in pools:
        yield from pool.subnets(new_prefix=prefix)


def _checked(block: AddressBlock, taken: Sequence[IPv4Network]) -> AddressBlock:
    subnet = _network(block.subnet, "subnet")
    if subnet.prefixlen > _LONGEST_PREFIX:
        raise InvalidArgument("failed to allocate gateway (): No available addresses on this pool")
    if any(subnet.overlaps(other) for other in taken):
        raise Forbidden("Pool overlaps with other one on this address space")
    if block.ip_range and not _network(block.ip_range, "ip-range").subnet_of(subnet):
        raise InvalidArgument(f"invalid ip-range {block.ip_range}: no matching subnet")
    for address in (block.gateway, *block.reserved.values()):
        if address and _address(address) not in subnet:
            raise InvalidArgument(f"no matching subnet for gateway {address}")
    return replace(block, subnet=str(subnet), gateway=block.gateway or str(_gateway(subnet, block)))


def _gateway(subnet: IPv4Network, block: AddressBlock) -> IPv4Address:
    others = {IPv4Address(address) for address in block.reserved.values()}
    return next(address for address in subnet.hosts() if address not in others)


def _network(text: str, what: str) -> IPv4Network:
    try:
        network = ip_network(text if "/" in text else "", strict=False)
    except ValueError:
        raise InvalidArgument(f"invalid {what} {text}: invalid CIDR address: {text}") from None
    if not isinstance(network, IPv4Network):
        raise InvalidArgument(f"invalid {what} {text}: it is not IPv4")
    if what == "subnet" and str(network) != text:
        raise InvalidArgument(f"invalid subnet {text}: it should be {network}")
    return network


def _address(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError:
        raise InvalidArgument(f"invalid IP address: {text}") from None
