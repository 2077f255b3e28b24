"""Plugging containers in and out, and what users are shown of it.

The network may be away (no libnftables, a clashing subnet): containers that need none start all the same, the others
are refused with the reason, and the next one tries again.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets

import structlog

from bulkhead.errors import BulkheadError
from bulkhead.manager.index import Index
from bulkhead.manager.networks.ports import Network
from bulkhead.manager.ports import Created
from bulkhead.manager.sharing import Attachment, attachment
from bulkhead.model.container import Container, ContainerSpec, NetworkEndpoint, PublishedPort
from bulkhead.model.filters import port_range
from bulkhead.model.network import Endpoint, PortBinding, ProcessNetns

log = structlog.get_logger()
DEFAULT_NETWORK = "bridge"


def network_id(name: str) -> str:
    """The id of a predefined network: the same for ever, on every instance."""
    return hashlib.sha256(f"bulkhead network {name}".encode()).hexdigest()


class Networking:
    """The manager's side of networks."""

    def __init__(self, network: Network, index: Index) -> None:
        self._network = network
        self._index = index
        self._up = False
        self._trouble = ""
        self._raising = asyncio.Lock()

    @property
    def trouble(self) -> str:
        """Why the network is away, or nothing."""
        return self._trouble

    async def recover(self) -> None:
        """Bring up the network with what the records say is alive; a network that is away is only noted.

        Before anything is started, so that no address or port is given away twice.
        """
        try:
            await self._ensure()
        except BulkheadError as error:
            log.warning("the network is not available", reason=str(error))

    async def watch(self) -> None:
        """Until cancelled: mend what others break."""
        while True:
            if self._up:
                try:
                    await self._network.watch()
                except BulkheadError as error:
                    log.warning("cannot watch the network", reason=str(error))
            await asyncio.sleep(5)

    async def plug(self, container: Container, created: Created) -> Endpoint | None:
        """Connect a parked container; None when it has no network of its own. Raises what `Network` does."""
        spec = container.spec
        if attachment(spec) is not Attachment.BRIDGE:
            return None
        await self._ensure()
        return await self._network.attach(
            container.id,
            ProcessNetns(pid=created.pid, start_time=created.start_time),
            address=container.last_address or None,
            mac=spec.mac_address or None,
            ports=_bindings(spec),
            name=container.name,
        )

    async def unplug(self, endpoint: Endpoint | None) -> None:
        """Free what an endpoint held. What fails here is mended by the next reconciliation."""
        if endpoint is None:
            return
        try:
            await self._network.detach(endpoint)
        except BulkheadError as error:
            log.warning("cannot detach", container=endpoint.container_id, reason=str(error))

    async def _ensure(self) -> None:
        if self._up:
            return
        async with self._raising:
            if self._up:
                return
            try:
                await self._network.ensure()
                mended = await self._network.reconcile(self._live())
            except BulkheadError as error:
                self._trouble = str(error)
                raise
            self._up, self._trouble = True, ""
            if mended.lost:
                log.warning("containers without a network", endpoints=list(mended.lost))

    def _live(self) -> list[Endpoint]:
        return [each.attachment for each in self._index if each.attachment is not None and each.phase.alive]


def shown(spec: ContainerSpec, endpoint: Endpoint | None) -> NetworkEndpoint | None:
    """What inspect says of a container that has just been plugged in."""
    way = attachment(spec)
    if way is Attachment.SHARED:
        return None
    name = DEFAULT_NETWORK if way is Attachment.BRIDGE else way.value
    plain = NetworkEndpoint(network_id=network_id(name), network_name=name, endpoint_id=secrets.token_hex(32))
    if endpoint is None:
        return plain
    return NetworkEndpoint(
        network_id=plain.network_id,
        network_name=name,
        endpoint_id=plain.endpoint_id,
        address=endpoint.address,
        prefix_len=endpoint.prefix_len,
        gateway=endpoint.gateway,
        mac=endpoint.mac,
        ports=tuple(_published(each) for each in endpoint.ports),
    )


def _bindings(spec: ContainerSpec) -> list[PortBinding]:
    bindings = [
        PortBinding(
            container_port=port.container_port,
            protocol=port.protocol or "tcp",
            host_ip=port.host_ip,
            host_port=port.host_port,
        )
        for port in spec.ports
    ]
    if spec.publish_all_ports:
        named = {(each.protocol, each.container_port) for each in bindings}
        for text in spec.exposed_ports:
            protocol, first, last = port_range(text)
            missing = [port for port in range(first, last + 1) if (protocol, port) not in named]
            bindings += [PortBinding(container_port=port, protocol=protocol) for port in missing]
    return bindings


def _published(binding: PortBinding) -> PublishedPort:
    return PublishedPort(
        container_port=binding.container_port,
        protocol=binding.protocol,
        host_ip=binding.host_ip,
        host_port=binding.host_port,
    )
