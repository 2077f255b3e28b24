"""The keeper of the network's nftables tables: what a container changes in them, and how all is made right."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import structlog

from bulkhead.errors import Conflict, Internal
from bulkhead.manager.networks import antispoof, publish, tables
from bulkhead.manager.networks.ports import Bridge, ElementChange, EndpointChange, Kernel
from bulkhead.manager.networks.tables import Table
from bulkhead.model.network import Endpoint

_log = structlog.get_logger()


class Firewall:
    """The tables `inet <name>` and, where the kernel can, `bridge <name>`.

    `bridges` and `live` give all bridges and live endpoints: what the tables are made of when they must be mended.
    """

    def __init__(
        self,
        kernel: Kernel,
        name: str,
        bridges: Callable[[], Sequence[Bridge]],
        live: Callable[[], Iterable[Endpoint]],
    ) -> None:
        self._kernel = kernel
        self._name = name
        self._bridges = bridges
        self._live = live
        self._guards_bridges: bool | None = None
        self._begun = 0  # admissions and dismissals so far
        self._writer = asyncio.Lock()

    def admission(self, endpoint: Endpoint) -> EndpointChange:
        """What publishes the endpoint's ports and gives it its address; to be carried out at once."""
        changes = publish.LAYOUT.additions(self._name, publish.elements_of(endpoint))
        if self._guards_bridges:
            changes += antispoof.LAYOUT.additions(self._name, antispoof.elements_of(endpoint))
        return self._change(endpoint, changes)

    def dismissal(self, endpoint: Endpoint) -> EndpointChange:
        """The opposite; right for one that was not admitted, too."""
        changes = publish.LAYOUT.removals(self._name, publish.elements_of(endpoint))
        if self._guards_bridges:
            changes += antispoof.LAYOUT.removals(self._name, antispoof.elements_of(endpoint))
        return self._change(endpoint, changes)

    def _change(self, endpoint: Endpoint, elements: Sequence[ElementChange]) -> EndpointChange:
        self._begun += 1
        udp_ports = [port.host_port for port in endpoint.ports if port.protocol == "udp"]
        return EndpointChange(elements=elements, udp_ports=udp_ports)

    async def converge(self, *, prune: bool) -> int:
        """Make the tables hold what they should; the number of changes. Without `prune` no element is taken away."""
        async with self._writer:
            done = 0
            while True:
                begun = self._begun
                try:
                    done += await self._mend(prune=prune)
                except (Conflict, Internal):
                    if self._begun == begun:
                        raise
                # Containers come and go meanwhile: what was read then may be wrong now.
                if self._begun == begun:
                    return done

    async def warn_of_others(self) -> None:
        """Tell the operator of firewalls that will drop what ours lets through (dockerd's is one)."""
        async with self._writer:
            drops = await self._kernel.forward_drops()
        for chain in drops:
            _log.warning(
                "another firewall drops forwarded packets by default: containers reach each other, the world and are "
                "reached from outside only if it accepts their bridge",
                chain=chain,
                bridges=[bridge.name for bridge in self._bridges()],
            )

    async def remove(self) -> None:
        """Remove the tables."""
        async with self._writer:
            for family in ("inet", "bridge"):
                if await self._kernel.table(family, self._name) is not None:
                    await self._kernel.apply([f"delete table {family} {self._name}"])

    async def _mend(self, *, prune: bool) -> int:
        commands: list[str] = []
        for wanted in await self._wanted():
            listed = await self._kernel.table(wanted.family, wanted.name)
            found = tables.actual(wanted.family, wanted.name, listed)
            commands += tables.changes(wanted, found, prune=prune)
        if commands:
            await self._kernel.apply(commands)
        return len(commands)

    async def _wanted(self) -> list[Table]:
        # The question comes first: the books may change while it is asked.
        guards = await self._can_guard_bridges()
        live, bridges = list(self._live()), self._bridges()
        wanted = [publish.desired(self._name, bridges, live)]
        return [*wanted, antispoof.desired(self._name, bridges, live)] if guards else wanted

    async def _can_guard_bridges(self) -> bool:
        if self._guards_bridges is None:
            try:
                await self._kernel.apply(antispoof.probe(self._name))
            except Internal as error:
                _log.warning("containers can use each other's addresses on this kernel", reason=str(error))
                self._guards_bridges = False
            else:
                self._guards_bridges = True
        return self._guards_bridges
