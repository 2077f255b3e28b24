"""Which container holds which address of a subnet."""

from __future__ import annotations

from collections.abc import Iterable

from bulkhead.errors import Forbidden, InvalidArgument, ResourceExhausted
from bulkhead.model.network import IPAddress, IPNetwork


class AddressPool:
    """The addresses of one subnet, given from `pool`; the first, IPv4's broadcast and `reserved` ones are nobody's.

    `gateway` is the first unless it is named. A new lease takes the lowest free address after the last one given, so
    that an address rests before it is used again.
    """

    def __init__(
        self,
        subnet: IPNetwork,
        *,
        gateway: IPAddress | None = None,
        pool: IPNetwork | None = None,
        reserved: Iterable[IPAddress] = (),
    ) -> None:
        if subnet.max_prefixlen - subnet.prefixlen < 2:
            raise InvalidArgument(f"cannot use subnet {subnet}: it has no room for a gateway and a container")
        self.subnet = subnet
        self.gateway = gateway or subnet[1]
        self._nobodys = frozenset((int(self.gateway), *(int(address) for address in reserved)))
        self._lowest, self._highest = int(subnet[1]), int(subnet[-2 if subnet.version == 4 else -1])
        given = pool or subnet
        self._first = max(int(given[0]), self._lowest)
        self._last = min(int(given[-1]), self._highest)
        self._given = self._first - 1
        self._owners: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._owners)

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.subnet.version

    def lease(self, owner: str, wish: IPAddress | None = None, *, fixed: bool = False) -> IPAddress:
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
        return self._address(number)

    def claim(self, address: IPAddress, owner: str) -> bool:
        """Note an address that `owner` holds already; False when another holds it.

        One outside the subnet is of another configuration and not ours to note.
        """
        number = int(address)
        if not self._lowest <= number <= self._highest:
            return True
        if self._first <= number <= self._last:
            self._given = max(self._given, number)
        return self._owners.setdefault(number, owner) == owner

    def release(self, address: IPAddress, owner: str) -> None:
        """Free an address if `owner` holds it."""
        if self._owners.get(int(address)) == owner:
            del self._owners[int(address)]

    def forget(self) -> None:
        """Free every address."""
        self._owners.clear()

    def _address(self, number: int) -> IPAddress:
        return self.subnet[number - int(self.subnet[0])]

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
        raise ResourceExhausted(
            f"no available IPv{self.subnet.version} addresses on this network's address pools: {self.subnet}"
        )
