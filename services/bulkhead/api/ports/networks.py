"""Networks, and who is on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bulkhead.api.call import Filters
from bulkhead.model.container import NetworkEndpoint
from bulkhead.model.network import AddressBlock, NetworkRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkMember:
    """A container that runs and is plugged in."""

    container_id: str = ""
    container_name: str = ""
    endpoint_id: str = ""
    mac: str = ""
    address: str = ""
    prefix_len: int = 0
    address6: str = ""
    prefix_len6: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedNetwork:
    """A network, and who is on it when that was asked for."""

    id: str
    name: str
    driver: str = ""
    blocks: tuple[AddressBlock, ...] = ()
    internal: bool = False
    attachable: bool = False
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    ipam_options: Mapping[str, str] = field(default_factory=dict)
    # Whether the user told any, be they none.
    ipam_options_told: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at: int = 0
    members: tuple[NetworkMember, ...] = ()


class Networks(Protocol):
    async def create(self, wanted: NetworkRecord) -> str:
        """A new network's id."""

    async def list(self, filters: Filters) -> Sequence[InspectedNetwork]: ...

    async def inspect(self, ref: str) -> InspectedNetwork: ...

    async def remove(self, ref: str) -> None: ...

    async def prune(self, filters: Filters) -> Sequence[str]:
        """Names of what went."""

    async def connect(self, ref: str, container: str, wish: NetworkEndpoint) -> None: ...

    async def disconnect(self, ref: str, container: str, *, force: bool) -> None: ...
