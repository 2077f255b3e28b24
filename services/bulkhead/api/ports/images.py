"""Images: pulled, pushed, listed, saved and loaded."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bulkhead.api.call import Filters


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryAuth:
    username: str = ""
    password: str = ""
    server_address: str = ""
    identity_token: str = ""
    registry_token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One line of a pull, push or load; `aux` is JSON."""

    id: str = ""
    status: str = ""
    current: int = 0
    total: int = 0
    stream: str = ""
    aux: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """What of an image is here: its manifest, bytes of its blobs, its platform; its containers' ids for who asks."""

    manifest_digest: str = ""
    manifest_media_type: str = ""
    manifest_size: int = 0
    content_size: int = 0
    os: str = ""
    architecture: str = ""
    variant: str = ""
    container_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedImage:
    id: str
    repo_tags: tuple[str, ...] = ()
    repo_digests: tuple[str, ...] = ()
    created_at: int = 0
    size: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    containers: int = 0
    shared_size: int = 0
    presence: Presence = field(default_factory=Presence)


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedImage:
    """An image; `config` is its config blob, JSON made by strangers."""

    id: str
    repo_tags: tuple[str, ...] = ()
    repo_digests: tuple[str, ...] = ()
    size: int = 0
    config: bytes = b"{}"
    tagged_at: int = 0
    manifest_digest: str = ""
    manifest_media_type: str = ""
    manifest_size: int = 0
    presence: Presence = field(default_factory=Presence)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    id: str = ""
    created_at: int = 0
    created_by: str = ""
    tags: tuple[str, ...] = ()
    size: int = 0
    comment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedImage:
    """One of the two is set."""

    untagged: str = ""
    deleted: str = ""


class Images(Protocol):
    """Streams raise what ends them early; before their first item, that is the request's own error."""

    def pull(
        self, reference: str, *, platform: str, auth: RegistryAuth | None, all_tags: bool
    ) -> AsyncGenerator[Progress]: ...

    def push(self, reference: str, *, auth: RegistryAuth | None, all_tags: bool) -> AsyncGenerator[Progress]: ...

    async def list(self, *, all: bool, filters: Filters, container_ids: bool = False) -> Sequence[ListedImage]: ...

    async def inspect(self, ref: str, *, container_ids: bool = False) -> InspectedImage: ...

    async def history(self, ref: str) -> Sequence[HistoryEntry]: ...

    async def tag(self, ref: str, target: str) -> None: ...

    async def remove(self, ref: str, *, force: bool, no_prune: bool) -> Sequence[RemovedImage]: ...

    async def prune(self, filters: Filters) -> tuple[Sequence[RemovedImage], int]: ...

    def load(self, data: AsyncIterator[bytes], *, quiet: bool, platform: str) -> AsyncGenerator[Progress]: ...

    def save(self, refs: Sequence[str]) -> AsyncGenerator[bytes]: ...
