"""Which container holds which port of the host."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from itertools import chain

from bulkhead.errors import Internal, ResourceExhausted
from bulkhead.model.network import ANY, ANY6, PortBinding

_WILDCARDS = frozenset((ANY, ANY6))
# (protocol, address, port) -> why the host could not listen there, None if it could.
Bindable = Callable[[str, str, int], str | None]
# The same -> whether another installation has published it: no socket tells of that.
Published = Callable[[str, str, int], bool]
# (protocol, port) -> whether no other installation is just publishing it; from then on it is we who are.
Reserve = Callable[[str, int], bool]
Unreserve = Callable[[str, int], None]
# Where the host listens: protocol, address, port.
_Place = tuple[str, str, int]


def _choices(asked: PortBinding) -> int:
    """How many ports would do."""
    return len(asked.candidates) or 1 << 16


class HostPorts:
    """The host's published ports. A port of a family's wildcard address excludes the same port of its others."""

    def __init__(
        self,
        bindable: Bindable,
        elsewhere: Published,
        ephemeral: Callable[[], range],
        reserve: Reserve = lambda *_: True,
        unreserve: Unreserve = lambda *_: None,
    ) -> None:
        self._reserve = reserve
        self._unreserve = unreserve
        self._reserved: set[tuple[str, int]] = set()
        self._bindable = bindable
        self._elsewhere = elsewhere
        self._ephemeral = ephemeral
        self._held: dict[tuple[str, int], dict[str, str]] = {}
        self._given = 0

    def __len__(self) -> int:
        return sum(len(holders) for holders in self._held.values())

    def allocate(
        self,
        owner: str,
        asked: Sequence[PortBinding],
        wildcards: Sequence[str] = (ANY,),
        *,
        held: Iterable[PortBinding] = (),
    ) -> tuple[PortBinding, ...]:
        """A host port for each binding, in order, or none at all; without an address it is one at all `wildcards`.

        What the owner has `held` of other endpoints is in nobody's way here, and stays the owner's.

        Ports that are asked for by number go first, then ranges, so that none of our own choice is in their way.
        Raises Internal with Docker's text when what was asked for is taken, ResourceExhausted when
        the host has no port of its own choice left.
        """
        given: dict[int, list[PortBinding]] = {}
        held = list(held)
        own = {(each.protocol, each.host_ip, each.host_port) for each in held}
        self.release(owner, held)
        try:
            for place, binding in sorted(enumerate(asked), key=lambda each: _choices(each[1])):
                given[place] = self._one(owner, binding, (binding.host_ip,) if binding.host_ip else wildcards, own)
        except BaseException:
            self.release(owner, chain(*given.values()))
            raise
        finally:
            self.claim(owner, held)
        return tuple(chain(*(given[place] for place in range(len(asked)))))

    def claim(self, owner: str, held: Iterable[PortBinding]) -> None:
        """Note ports that `owner` holds already."""
        for binding in held:
            if binding.host_port:
                self._take(owner, binding)

    def release(self, owner: str, held: Iterable[PortBinding]) -> None:
        """Free those ports that `owner` holds."""
        for binding in held:
            key = (binding.protocol, binding.host_port)
            holders = self._held.get(key, {})
            if holders.get(binding.host_ip) == owner:
                del holders[binding.host_ip]
                if not holders:
                    del self._held[key]

    def settle(self) -> None:
        """What was allocated is published by now, or released: others see for themselves."""
        for protocol, port in self._reserved:
            self._unreserve(protocol, port)
        self._reserved.clear()

    def forget(self) -> None:
        """Free every port."""
        self._held.clear()

    def _one(
        self, owner: str, asked: PortBinding, addresses: Sequence[str], own: Collection[_Place]
    ) -> list[PortBinding]:
        port = (self._first_free if asked.candidates else self._of_our_choice)(asked, addresses, own)
        given = [replace(asked, host_ip=address, host_port=port, host_port_end=0) for address in addresses]
        for binding in given:
            self._take(owner, binding)
        return given

    def _first_free(self, asked: PortBinding, addresses: Sequence[str], own: Collection[_Place]) -> int:
        reasons = [""]
        for port in asked.candidates:
            reason = self._obstacles(asked.protocol, addresses, port, own)
            if reason is None:
                return port
            reasons.append(reason)
        raise Internal(reasons[-1])

    def _of_our_choice(self, asked: PortBinding, addresses: Sequence[str], own: Collection[_Place]) -> int:
        ports = self._ephemeral()
        start = self._given + 1 if self._given + 1 in ports else ports.start
        for port in chain(range(start, ports.stop), range(ports.start, start)):
            if self._obstacles(asked.protocol, addresses, port, own) is None:
                self._given = port
                return port
        raise ResourceExhausted(f"no free {asked.protocol} port on the host in {ports.start}-{ports.stop - 1}")

    def _obstacles(self, protocol: str, addresses: Sequence[str], port: int, own: Collection[_Place]) -> str | None:
        foreign = [address for address in addresses if (protocol, address, port) not in own]
        found = (self._obstacle(protocol, address, port) for address in foreign)
        return next((reason for reason in found if reason is not None), None)

    def _obstacle(self, protocol: str, address: str, port: int) -> str | None:
        holders = self._held.get((protocol, port), {})
        rivals = [other for other in holders if (":" in other) is (":" in address)]
        shown = f"[{address}]" if ":" in address else address
        clashes = address in rivals or address in _WILDCARDS or not _WILDCARDS.isdisjoint(rivals)
        if (rivals and clashes) or not self._is_ours(protocol, port) or self._elsewhere(protocol, address, port):
            return f"Bind for {shown}:{port} failed: port is already allocated"
        reason = self._bindable(protocol, address, port)
        if reason is None:
            return None
        return f"failed to bind host port for {shown}:{port}/{protocol}: {reason}"

    def _is_ours(self, protocol: str, port: int) -> bool:
        """Before anybody else's are looked at: who publishes at the same moment has reserved it or shows it."""
        if (protocol, port) in self._reserved:
            return True
        if not self._reserve(protocol, port):
            return False
        self._reserved.add((protocol, port))
        return True

    def _take(self, owner: str, binding: PortBinding) -> None:
        self._held.setdefault((binding.protocol, binding.host_port), {})[binding.host_ip] = owner
