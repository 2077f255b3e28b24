"""Registries: what is in them, and whom they let in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bulkhead.api.call import Filters
from bulkhead.api.ports.images import RegistryAuth


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    name: str
    description: str = ""
    star_count: int = 0
    is_official: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    os: str = ""
    architecture: str = ""
    variant: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedImage:
    """A manifest or index in a registry, and what it is for."""

    digest: str
    media_type: str = ""
    size: int = 0
    platforms: tuple[Platform, ...] = ()


class Registries(Protocol):
    async def search(
        self, term: str, *, limit: int, filters: Filters, auth: RegistryAuth | None
    ) -> Sequence[SearchResult]: ...

    async def inspect(self, reference: str, *, auth: RegistryAuth | None) -> DistributedImage: ...


class Logins(Protocol):
    async def login(self, auth: RegistryAuth) -> str:
        """An identity token, mostly empty, when the registry at `auth.server_address` accepts the credentials.

        Raises Unauthorized when it does not, Unavailable when it cannot be asked.
        """
