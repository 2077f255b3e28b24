"""Volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bulkhead.api.call import Filters
from bulkhead.model.volume import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedVolume:
    """A volume and where its files are; `size` in bytes, -1 when it was not measured."""

    name: str
    driver: str = "local"
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    created_at: int = 0
    mountpoint: str = ""
    size: int = -1
    references: int = 0


class Volumes(Protocol):
    async def create(self, wanted: Volume) -> InspectedVolume:
        """The volume of that name, made when it is not there."""

    async def list(self, *, filters: Filters, usage: bool = False) -> Sequence[InspectedVolume]: ...

    async def inspect(self, name: str) -> InspectedVolume: ...

    async def remove(self, name: str, *, force: bool) -> None: ...

    async def prune(self, filters: Filters) -> tuple[Sequence[str], int]:
        """Names of what went, and the bytes that it took."""
