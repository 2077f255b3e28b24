"""Which container holds which port of the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain

from bulkhead.errors import Internal, ResourceExhausted
from bulkhead.model.network import PortBinding

ANY = "0.0.0.0"
# (protocol, address, port) -> why the host could not listen there, None if it could.
Bindable = Callable[[str, str, int], str | None]


class HostPorts:
    """The host's published ports. A port of the wildcard address excludes the same port of any other."""

    def __init__(self, bindable: Bindable, ephemeral: Callable[[], range]) -> None:
        self._bindable = bindable
        self._ephemeral = ephemeral
        self._held: dict[tuple[str, int], dict[str, str]] = {}
        self._given = 0

    def __len__(self) -> int:
        return sum(len(holders) for holders in self._held.values())

    def allocate(self, owner: str, asked: Sequence[PortBinding]) -> tuple[PortBinding, ...]:
        """A host port for each binding, or none at all.

        Raises Internal with Docker's text when what was asked for is taken, ResourceExhausted when
        the host has no port of its own choice left.
        """
        given: list[PortBinding] = []
        try:
            # One by one into the list, so that those before a failure are in it.
            given.extend(self._one(owner, replace(binding, host_ip=binding.host_ip or ANY)) for binding in asked)
        except BaseException:
            self.release(owner, given)
            raise
        return tuple(given)

    def claim(self, owner: str, held: Iterable[PortBinding]) -> None:
        """Note ports that `owner` holds already."""
        for binding in held:
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

    def forget(self) -> None:
        """Free every port."""
        self._held.clear()

    def _one(self, owner: str, asked: PortBinding) -> PortBinding:
        given = self._first_free(asked) if asked.candidates else self._of_our_choice(asked)
        self._take(owner, given)
        return given

    def _first_free(self, asked: PortBinding) -> PortBinding:
        reasons = [""]
        for port in asked.candidates:
            reason = self._obstacle(asked, port)
            if reason is None:
                return replace(asked, host_port=port, host_port_end=0)
            reasons.append(reason)
        raise Internal(reasons[-1])

    def _of_our_choice(self, asked: PortBinding) -> PortBinding:
        ports = self._ephemeral()
        start = self._given + 1 if self._given + 1 in ports else ports.start
        for port in chain(range(start, ports.stop), range(ports.start, start)):
            if self._obstacle(asked, port) is None:
                self._given = port
                return replace(asked, host_port=port, host_port_end=0)
        raise ResourceExhausted(f"no free {asked.protocol} port on the host in {ports.start}-{ports.stop - 1}")

    def _obstacle(self, asked: PortBinding, port: int) -> str | None:
        holders = self._held.get((asked.protocol, port), {})
        if holders and (asked.host_ip in holders or asked.host_ip == ANY or ANY in holders):
            return f"Bind for {asked.host_ip}:{port} failed: port is already allocated"
        reason = self._bindable(asked.protocol, asked.host_ip, port)
        if reason is None:
            return None
        return f"failed to bind host port for {asked.host_ip}:{port}/{asked.protocol}: {reason}"

    def _take(self, owner: str, binding: PortBinding) -> None:
        self._held.setdefault((binding.protocol, binding.host_port), {})[binding.host_ip] = owner
