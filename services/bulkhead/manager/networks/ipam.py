"""Which container holds which address of a subnet."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from bulkhead.errors import InvalidArgument, ResourceExhausted


class AddressPool:
    """The addresses of one subnet; the first is the gateway's, network and broadcast are nobody's.

    A new lease takes the lowest free address after the last one given, so that an address rests
    before it is used again.
    """

    def __init__(self, subnet: IPv4Network) -> None:
        if subnet.prefixlen > 30:
            raise InvalidArgument(f"cannot use subnet {subnet}: it has no room for a gateway and a container")
        self.subnet = subnet
        self.gateway = subnet[1]
        self._first = int(subnet[2])
        self._last = int(subnet[-2])
        self._given = self._first - 1
        self._owners: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def lease(self, owner: str, wish: IPv4Address | None = None) -> IPv4Address:
        """An address for `owner`: the wished one if it is free, else the next. Raises ResourceExhausted."""
        if wish is not None and self._free(int(wish)):
            number = int(wish)
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
        if not self._first <= number <= self._last:
            return True
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
        return self._first <= number <= self._last and number not in self._owners

    def _next(self) -> int:
        if self._given >= self._last:
            self._given = self._first - 1
        for start, stop in ((self._given + 1, self._last), (self._first, self._given)):
            for number in range(start, stop + 1):
                if number not in self._owners:
                    return number
        raise ResourceExhausted(f"no available IPv4 addresses on this network's address pools: {self.subnet}")
