"""Which container holds which address of a subnet."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from bulkhead.errors import Forbidden, InvalidArgument, ResourceExhausted
from bulkhead.model.network import IPAddress, IPNetwork


class Runs:
    """Numbers that are taken, as runs of neighbours: the next free one is a search among runs, not among numbers."""

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for number in numbers:
            self.add(number)

    def __len__(self) -> int:
        """How many runs there are."""
        return len(self._starts)

    def free_from(self, number: int) -> int:
        """The lowest number not below this one that is not taken."""
        at = self._at(number)
        return number if at is None else self._ends[at] + 1

    def add(self, number: int) -> None:
        if self._at(number) is not None:
            return
        right = bisect_right(self._starts, number)
        begins = self._starts[right] if right < len(self) and self._starts[right] == number + 1 else None
        if right and self._ends[right - 1] == number - 1:
            self._ends[right - 1] = number
            if begins is not None:
                self._ends[right - 1] = self._ends[right]
                del self._starts[right], self._ends[right]
        elif begins is not None:
            self._starts[right] = number
        else:
            self._starts.insert(right, number)
            self._ends.insert(right, number)

    def discard(self, number: int) -> None:
        at = self._at(number)
        if at is None:
            return
        start, end = self._starts[at], self._ends[at]
        halves = [(first, last) for first, last in ((start, number - 1), (number + 1, end)) if first <= last]
        self._starts[at : at + 1] = [first for first, _ in halves]
        self._ends[at : at + 1] = [last for _, last in halves]

    def _at(self, number: int) -> int | None:
        """The run that has the number."""
        at = bisect_right(self._starts, number) - 1
        return at if at >= 0 and self._ends[at] >= number else None


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
        self._taken = Runs(self._nobodys)

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
        self._taken.add(number)
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
        self._taken.add(number)
        return self._owners.setdefault(number, owner) == owner

    def release(self, address: IPAddress, owner: str) -> None:
        """Free an address if `owner` holds it."""
        if self._owners.get(int(address)) == owner:
            del self._owners[int(address)]
            if int(address) not in self._nobodys:
                self._taken.discard(int(address))

    def forget(self) -> None:
        """Free every address."""
        self._owners.clear()
        self._taken = Runs(self._nobodys)

    def _address(self, number: int) -> IPAddress:
        return self.subnet[number - int(self.subnet[0])]

    def _free(self, number: int) -> bool:
        within = self._lowest <= number <= self._highest
        return within and number not in self._owners and number not in self._nobodys

    def _next(self) -> int:
        after = self._given + 1 if self._given < self._last else self._first
        for start in (after, self._first):
            number = self._taken.free_from(start)
            if number <= self._last:
                return number
        raise ResourceExhausted(
            f"no available IPv{self.subnet.version} addresses on this network's address pools: {self.subnet}"
        )
