"""Published ports that shims carry over by hand, because no rule of the kernel's leads into the container."""

from __future__ import annotations

from dataclasses import dataclass

from bulkhead.manager.ports import Shim, Shims
from bulkhead.model.container import Container


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaying:
    """Keeps shims told. What they carry is those ports of `Endpoint.relays`, after each call the present ones only."""

    shims: Shims

    async def begin(self, container: Container, shim: Shim) -> None:
        """Have the shim listen before the container's process runs, or after a change that a crash may have cut short.

        Raises Unavailable when a port is taken.
        """
        if self.concerns(container):
            await shim.relay([relay for endpoint in container.attachments for relay in endpoint.relays])

    @staticmethod
    def concerns(container: Container) -> bool:
        """Whether it can have had any: their user has named an IPv6 address of the host."""
        return any(":" in port.host_ip for port in container.spec.ports)

    async def renew(self, container: Container) -> None:
        """The container's networks have changed while it runs."""
        if self.concerns(container):
            await self.begin(container, await self.shims.ensure(container.id))
