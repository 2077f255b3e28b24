"""DNS in a container: what its shim answers from, and whom it asks about the rest of the world."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from bulkhead.manager.bundles import Bundles
from bulkhead.manager.networking import Networking
from bulkhead.manager.ports import Shim, Shims
from bulkhead.model.container import Container, NetworkEndpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolving:
    """Keeps shims told."""

    networking: Networking
    bundles: Bundles
    shims: Shims

    async def begin(self, container: Container, shim: Shim) -> None:
        """Have the shim answer, if the container is on a network where names resolve. Before its process runs."""
        if self._describe(container):
            await shim.serve_names()

    async def renew(self, container: Container) -> None:
        """The container's networks have changed while it runs."""
        if self._describe(container):
            await asyncio.to_thread(self.bundles.point_to_own_resolver, container)
            shim = await self.shims.ensure(container.id)
            await shim.serve_names()
        elif self.networking.names.describes(container.id):
            # It has left its last such network, and goes on asking its shim about the rest of the world.
            self._write(container, [])

    def end(self, container: Container) -> None:
        """The container has ended."""
        if self.networking.names.describes(container.id):
            self.networking.names.forget(container.id)

    def _describe(self, container: Container) -> bool:
        networking = self.networking
        on = [each for each in container.endpoints if networking.needs_names([each])]
        if on:
            self._write(container, on)
        return bool(on)

    def _write(self, container: Container, on: Sequence[NetworkEndpoint]) -> None:
        find = self.networking.known.find
        self.networking.names.describe(
            container.id,
            networks=[each.network_id for each in on],
            servers=self.bundles.upstream_servers(container),
            links=dict(_link(text) for each in on for text in each.links),
            # As Docker does: the user may name a server that only the container reaches, itself included.
            inside=bool(container.spec.dns),
            follow="" if container.spec.dns else str(self.bundles.host_resolv),
            dotless=not self.bundles.keeps_dotless(container),
            internal=bool(on) and all(find(each.network_id).internal for each in on),
        )


def _link(text: str) -> tuple[str, str]:
    """`container[:alias]` as (alias, container); names are asked for in small letters."""
    name, _, alias = text.partition(":")
    return (alias or name).lower(), name
