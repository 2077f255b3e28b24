"""Published ports that shims carry over by hand, because no rule of the kernel's leads into the container."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bulkhead.manager.ports import Shim, Shims
from bulkhead.model.container import Container
from bulkhead.model.network import Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaying:
    """Keeps shims told. What they carry is those ports of `Endpoint.relays`, after each call the present ones only."""

    shims: Shims

    async def begin(self, attachments: Iterable[Endpoint], shim: Shim) -> None:
        """Have the shim listen before the container's process runs. Raises Unavailable when a port is taken."""
        if relays := [relay for endpoint in attachments for relay in endpoint.relays]:
            await shim.relay(relays)

    async def mend(self, container: Container, shim: Shim) -> None:
        """After a change that a crash may have cut short. Raises Unavailable when a port is taken."""
        if _publishes(container):
            await shim.relay([relay for endpoint in container.attachments for relay in endpoint.relays])

    async def renew(self, container: Container) -> None:
        """The container's networks have changed while it runs."""
        if _publishes(container):
            await self.mend(container, await self.shims.ensure(container.id))


def _publishes(container: Container) -> bool:
    return bool(container.spec.ports) or container.spec.publish_all_ports
