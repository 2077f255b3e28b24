"""Networks, and who is on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bulkhead.api.call import Filters
from bulkhead.model.container import NetworkEndpoint
from bulkhead.model.network import NetworkRecord


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

    record: NetworkRecord
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
