"""Which container holds which address of a subnet."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

from bulkhead.errors import Forbidden, InvalidArgument, ResourceExhausted


class AddressPool:
    """The addresses of one subnet, given from `pool`; network, broadcast and `reserved` ones are nobody's.

    `gateway` is the first unless it is named. A new lease takes the lowest free address after the last one given, so
    that an address rests before it is used again.
    """

    def __init__(
        self,
        subnet: IPv4Network,
        *,
        gateway: IPv4Address | None = None,
        pool: IPv4Network | None = None,
        reserved: Iterable[IPv4Address] = (),
    ) -> None:
        if subnet.prefixlen > 30:
            raise InvalidArgument(f"cannot use subnet {subnet}: it has no room for a gateway and a container")
        self.subnet = subnet
        self.gateway = gateway or subnet[1]
        self._nobodys = frozenset((int(self.gateway), *(int(address) for address in reserved)))
        self._lowest, self._highest = int(subnet[1]), int(subnet[-2])
        given = pool or subnet
        self._first = max(int(given[0]), self._lowest)
        self._last = min(int(given[-1]), self._highest)
        self._given = self._first - 1
        self._owners: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def lease(self, owner: str, wish: IPv4Address | None = None, *, fixed: bool = False) -> IPv4Address:
        """An address for `owner`: the wished one if it is free, else the next.

        Raises ResourceExhausted; Forbidden with Docker's text when the wish is `fixed` and taken.
        """
        if wish is not None and (self._free(int(wish)) or fixed):
            number = int(wish)
            if not self._free(number):
                raise Forbidden("Address already in use")
        else:
            number = self._next()
            self._given = number
        self._owners[number] = owner
        return IPv4Address(number)

    def claim(self, address: IPv4Address, owner: str) -> bool:
        """Note an address that `owner` holds already; False when another holds it.

        One outside the subnet is of another configuration and not ours to note.
        """
        number = int(address)
        if not self._lowest <= number <= self._highest:
            return True
        if self._first <= number <= self._last:
            self._given = max(self._given, number)
        return self._owners.setdefault(number, owner) == owner

    def release(self, address: IPv4Address, owner: str) -> None:
        """Free an address if `owner` holds it."""
        if self._owners.get(int(address)) == owner:
            del self._owners[int(address)]

    def forget(self) -> None:
        """Free every address."""
        self._owners.clear()

    def _free(self, number: int) -> bool:
        within = self._lowest <= number <= self._highest
        return within and number not in self._owners and number not in self._nobodys

    def _next(self) -> int:
        if self._given >= self._last:
            self._given = self._first - 1
        for start, stop in ((self._given + 1, self._last), (self._first, self._given)):
            for number in range(start, stop + 1):
                if number not in self._owners and number not in self._nobodys:
                    return number
        raise ResourceExhausted(f"no available IPv4 addresses on this network's address pools: {self.subnet}")
