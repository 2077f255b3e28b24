"""Who has which addresses of a network: one pool for each of its families."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import TypedDict

from bulkhead.errors import BulkheadError, InvalidArgument
from bulkhead.manager.networks.ipam import AddressPool
from bulkhead.manager.networks.ports import AddressWish
from bulkhead.model.network import AddressPlan, Endpoint, IPAddress, IPNetwork


class AddressFields(TypedDict, total=False):
    """What of an `Endpoint` comes from its addresses."""

    address: str
    prefix_len: int
    gateway: str
    address6: str
    prefix_len6: int
    gateway6: str


class Leases:
    """The addresses of one network."""

    def __init__(self, plans: Sequence[AddressPlan]) -> None:
        if not plans:
            raise InvalidArgument("IPv4 or IPv6 must be enabled")
        self._pools = tuple(
            AddressPool(plan.subnet, gateway=plan.gateway, pool=plan.pool, reserved=plan.reserved) for plan in plans
        )

    def take(self, owner: str, wishes: Sequence[AddressWish] = ()) -> tuple[IPAddress, ...]:
        """One address of each family, or none.

        Raises what `AddressPool.lease` does, InvalidArgument for a fixed one of another subnet.
        """
        wished = {parsed.version: (parsed, wish.fixed) for wish in wishes for parsed in (_parsed(wish.address),)}
        given: list[IPAddress] = []
        try:
            for pool in self._pools:
                wish, fixed = wished.get(pool.subnet.version, (None, False))
                if fixed and wish not in pool.subnet:
                    raise InvalidArgument(
                        f"invalid address {wish}: It does not belong to any of this network's subnets"
                    )
                given.append(pool.lease(owner, wish, fixed=fixed))
        except BulkheadError:
            self.release(owner, given)
            raise
        return tuple(given)

    def fields(self, given: Sequence[IPAddress]) -> AddressFields:
        """The addresses as an `Endpoint` has them."""
        found = AddressFields()
        for pool, address in zip(self._pools, given, strict=True):
            length, gateway = pool.subnet.prefixlen, str(pool.gateway)
            if pool.subnet.version == 4:
                found |= AddressFields(address=str(address), prefix_len=length, gateway=gateway)
            else:
                found |= AddressFields(address6=str(address), prefix_len6=length, gateway6=gateway)
        return found

    def claim(self, endpoint: Endpoint) -> bool:
        """Note addresses that an endpoint holds already; False when another holds one of them."""
        held = [(pool, each.ip) for pool in self._pools for each in endpoint.addresses if each.version == pool.version]
        claims = [pool.claim(address, endpoint.container_id) for pool, address in held]
        return all(claims)

    def release(self, owner: str, addresses: Iterable[IPAddress]) -> None:
        """Free those addresses that `owner` holds."""
        for address in addresses:
            for pool in self._pools:
                if pool.version == address.version:
                    pool.release(address, owner)

    def forget(self) -> None:
        """Free every address."""
        for pool in self._pools:
            pool.forget()


def overlap(one: IPNetwork, other: IPNetwork) -> bool:
    """Whether two networks share addresses; those of two families never do."""
    return one.version == other.version and one.overlaps(other)


def _parsed(text: str) -> IPAddress:
    try:
        return ip_address(text)
    except ValueError:
        raise InvalidArgument(f"invalid IP address: {text}") from None
