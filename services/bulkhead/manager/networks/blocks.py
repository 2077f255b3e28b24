"""Subnets for new networks: what a user wrote, checked; or the next free one of the default pools."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from bulkhead.errors import Forbidden, InvalidArgument, NotFound, NotImplementedYet
from bulkhead.manager.networks.leases import overlap
from bulkhead.model.network import AddressBlock, AddressPlan, GatewayMode, IPAddress, IPNetwork

Pool = tuple[IPNetwork, int]
"""Addresses, and the prefix length of the networks cut from them."""
# Docker's.
DEFAULT_POOLS: tuple[Pool, ...] = (
    *((IPv4Network(f"172.{second}.0.0/16"), 16) for second in range(17, 32)),
    (IPv4Network("192.168.0.0/16"), 20),
)
_ULA_PREFIX, _ULA_NETWORK = 48, 64
# Room for a gateway and a container, and what IPv4 needs besides.
_LEAST_HOST_BITS = 2


def unique_local(seed: str) -> tuple[Pool, ...]:
    """IPv6 addresses of an installation's own (RFC 4193): the same for the same `seed`, another's hardly ever."""
    prefix = b"\xfd" + sha256(seed.encode()).digest()[:5] + bytes(10)
    return ((IPv6Network((prefix, _ULA_PREFIX)), _ULA_NETWORK),)


def searched(wanted: Sequence[AddressBlock], pools: Sequence[Pool], *, version: int) -> list[IPNetwork]:
    """Where `choose` will look for a block of the family: what the host has there it must be told of."""
    named = any(block.subnet for block in wanted if version_of(block) == version)
    return [] if named else [pool for pool, _ in pools]


def choose(
    wanted: Sequence[AddressBlock],
    taken: Sequence[IPNetwork],
    routed: Sequence[IPNetwork],
    pools: Iterable[Pool] = DEFAULT_POOLS,
    *,
    version: int = 4,
    bridge: bool = True,
) -> AddressBlock:
    """The block of a new network for one family (`version` 4 or 6), its gateway named.

    `taken` are the subnets of networks, `routed` what the host has routes to: users may have that, defaults avoid it.
    Raises InvalidArgument, Forbidden (an overlap), NotFound (no pool left) with Docker's texts.
    """
    own = [block for block in wanted if version_of(block) == version]
    if len(own) > 1 and bridge:
        raise Forbidden("bridge driver doesn't support multiple subnets")
    if len(own) > 1:
        raise NotImplementedYet(f"a network of several IPv{version} subnets is not supported by this engine")
    if not own or not own[0].subnet:
        return _default(own[0] if own else AddressBlock(subnet=""), [*taken, *routed], pools, version)
    return _checked(own[0], taken)


def plan_of_block(block: AddressBlock, mode: GatewayMode = GatewayMode.NAT) -> AddressPlan:
    """A checked block, read."""
    return AddressPlan(
        subnet=ip_network(block.subnet),
        gateway=ip_address(block.gateway),
        pool=ip_network(block.ip_range) if block.ip_range else None,
        reserved=tuple(ip_address(address) for address in block.reserved.values()),
        mode=mode,
    )


def version_of(block: AddressBlock) -> int:
    """The family that a block speaks of; one that is silent means IPv4."""
    return 6 if ":" in (block.subnet or block.gateway or block.ip_range) else 4


def _default(block: AddressBlock, avoid: Sequence[IPNetwork], pools: Iterable[Pool], version: int) -> AddressBlock:
    if block.gateway or block.ip_range or block.reserved:
        raise InvalidArgument("invalid ipam config: a gateway, an ip-range or addresses need a subnet")
    taken = _Ranges(each for each in avoid if each.version == version)
    for subnet in _cut(pools):
        if subnet not in taken:
            return AddressBlock(subnet=str(subnet), gateway=str(subnet[1]))
    raise NotFound(
        f"could not find an available, non-overlapping IPv{version} address pool among the defaults to assign to the "
        "network"
    )


class _Ranges:
    """The addresses of networks of one family, in order: whether a network has some of them is a search, not a walk."""

    def __init__(self, networks: Iterable[IPNetwork]) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for each in sorted(networks, key=lambda each: (int(each.network_address), each.prefixlen)):
            # Two are apart or the later one is part of the other.
            if not self._lasts or int(each.network_address) > self._lasts[-1]:
                self._firsts.append(int(each.network_address))
                self._lasts.append(int(each.broadcast_address))

    def __contains__(self, network: IPNetwork) -> bool:
        """Whether it shares addresses with one of these."""
        following = bisect_right(self._firsts, int(network.broadcast_address))
        return following > 0 and self._lasts[following - 1] >= int(network.network_address)


def _cut(pools: Iterable[Pool]) -> Iterator[IPNetwork]:
    for pool, prefix in pools:
        yield from pool.subnets(new_prefix=prefix)


def _checked(block: AddressBlock, taken: Sequence[IPNetwork]) -> AddressBlock:
    subnet = _network(block.subnet, "subnet")
    if subnet.max_prefixlen - subnet.prefixlen < _LEAST_HOST_BITS:
        raise InvalidArgument("failed to allocate gateway (): No available addresses on this pool")
    if any(overlap(subnet, other) for other in taken):
        raise Forbidden("Pool overlaps with other one on this address space")
    if block.ip_range and not _is_part(_network(block.ip_range, "ip-range"), subnet):
        raise InvalidArgument(f"invalid ip-range {block.ip_range}: no matching subnet")
    for address in (block.gateway, *block.reserved.values()):
        if address and _address(address) not in subnet:
            raise InvalidArgument(f"no matching subnet for gateway {address}")
    return replace(block, subnet=str(subnet), gateway=block.gateway or str(_gateway(subnet, block)))


def _gateway(subnet: IPNetwork, block: AddressBlock) -> IPAddress:
    others = {_address(address) for address in block.reserved.values()}
    return next(address for address in subnet.hosts() if address not in others and address != subnet[0])


def _is_part(one: IPNetwork, whole: IPNetwork) -> bool:
    return one.version == whole.version and one[0] in whole and one[-1] in whole


def _network(text: str, what: str) -> IPNetwork:
    try:
        network = ip_network(text if "/" in text else "", strict=False)
    except ValueError:
        reason = "invalid CIDR block notation" if what == "subnet" else f"invalid CIDR address: {text}"
        raise InvalidArgument(f"invalid {what} {text}: {reason}") from None
    if what == "subnet" and network != _as_written(text):
        raise InvalidArgument(f"invalid subnet {text}: it should be {network}")
    return network


def _as_written(text: str) -> IPNetwork | None:
    """None for an address inside the network in place of its first one."""
    try:
        return ip_network(text)
    except ValueError:
        return None


def _address(text: str) -> IPAddress:
    try:
        return ip_address(text)
    except ValueError:
        raise InvalidArgument(f"invalid IP address: {text}") from None
