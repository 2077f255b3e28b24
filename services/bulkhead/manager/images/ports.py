"""What the image part of the manager needs from the rest, and from the world."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from bulkhead.content.arriving import Arriving
from bulkhead.content.auth import Credentials
from bulkhead.content.client import Pushed, RemoteManifest
from bulkhead.content.hub import HubResult
from bulkhead.content.inflate import Limits
from bulkhead.content.manifests import Descriptor
from bulkhead.manager.images.catalogue import Change
from bulkhead.model.digest import Digest
from bulkhead.model.reference import Reference

# publish(type, action, actor_id, attributes): announce an event; returns when it is in the journal.
Publish = Callable[[str, str, str, Mapping[str, str]], Awaitable[None]]
# New layers are in the records, and not yet known to be on disk.
Unpacked = Callable[[], None]
# settled(): wait until the layers below are in their places.
Settled = Callable[[], Awaitable[None]]
# Bytes done so far, of one blob or layer.
Told = Callable[[int], None]


class ImageUsers(Protocol):
    """The containers that were made from images. An image may have thousands, and is asked about one by one."""

    def running_from(self, image_id: str) -> Collection[str]:
        """Ids of those made from the image ("sha256:...") that run, or are about to run again."""

    def idle_from(self, image_id: str) -> Collection[str]:
        """Ids of the others that were made from it."""

    def ids(self) -> Collection[str]:
        """Every container that has a record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nameless:
    """A layer that was unpacked before it was known what it would be called; `place` is its owner's affair."""

    place: Path
    size: int
    diff_id: Digest
    implied: tuple[str, ...]


class Records(Protocol):
    """Where the books are kept."""

    async def load(self) -> Change:
        """All there is, as one change of empty books."""

    async def commit(self, change: Change, boot: str) -> None:
        """Write a change, durably, all or nothing. Raises ResourceExhausted on a full disk."""

    async def unsynced(self) -> dict[Digest, str]:
        """Layers not yet known to be on disk, and the boot in which they were unpacked."""

    async def check(self) -> list[str]:
        """What is wrong with the file that the books are kept in."""

    async def mark_synced(self, chains: Collection[Digest]) -> None:
        """Note that layers are on disk."""


class Layers(Protocol):
    """Unpacked layers, by chain id."""

    def size(self, chain: Digest) -> int | None:
        """Bytes of a layer that is here, whole; None when it is not."""

    async def unpack(
        self,
        chain: Digest,
        below: Sequence[Digest],
        blob: Digest | Arriving,
        media_type: str,
        diff_id: Digest,
        told: Told,
        settled: Settled,
    ) -> int:
        """Unpack a layer's blob, which belongs above the layers `below` (base first); bytes of the layer unpacked.

        `settled` is awaited before the layers below are looked at: they may still be coming, as may the blob.
        `told` hears how much of the blob was read. Raises InvalidArgument for a hostile archive, DataLoss for one that
        is not what `diff_id` says, ResourceExhausted; then nothing is left.
        """

    async def make(self, source: BinaryIO, limits: Limits) -> Nameless:
        """Unpack the tar that comes through a pipe, which is closed; what comes of it must be kept or dropped.

        Raises as `unpack`.
        """

    async def keep(self, layer: Nameless, chain: Digest, below: Sequence[Digest]) -> int:
        """Name a layer that was made, which belongs above `below`; its bytes."""

    async def drop(self, layer: Nameless) -> None:
        """Throw away one that was not kept; nothing happens to one that was."""

    async def discard(self, chain: Digest) -> None:
        """Forget a layer. Raises Internal."""

    async def sync(self) -> None:
        """Bring everything unpacked so far to the disk."""

    def keep_only(self, chains: Collection[Digest]) -> None:
        """Forget every other layer, and what was left half-unpacked."""

    def strays(self, chains: Collection[Digest]) -> list[str]:
        """What is there beside these layers and those being unpacked, as paths: `layers/<hex>`, `ingest/<name>`."""

    def discard_stray(self, name: str) -> None:
        """Forget one of those."""

    def used_percent(self) -> float:
        """How full the file system is, as df(1) tells."""

    def free_bytes(self) -> int:
        """Space left on the file system."""

    def quiet(self) -> AbstractContextManager[None]:
        """Nothing is deleted in the background meanwhile."""

    async def emptied(self) -> None:
        """Wait until the space of what was discarded is free."""


class Snapshots(Protocol):
    """Containers' writable layers, as fsck sees them."""

    def strays(self, known_ids: Collection[str]) -> list[str]:
        """Ids of containers that are not known, and yet have a writable layer."""

    def discard_stray(self, container_id: str) -> None:
        """Forget one of those."""


class Source(Protocol):
    """One repository on one registry, to pull from."""

    @property
    def host(self) -> str: ...

    async def manifest(self, reference: Reference) -> RemoteManifest:
        """What the tag or digest names. Raises NotFound with Docker's texts, Unauthorized, Unavailable, DataLoss."""

    async def blob(self, blob: Descriptor, told: Told, waiting: Told, arriving: Arriving) -> None:
        """Bring a blob into the content store, verified; `waiting` hears the seconds until the next try.

        `arriving` hears of what is there already; that it is whole is for the caller to tell.
        Raises NotFound, Unavailable, DataLoss, ResourceExhausted.
        """

    async def tags(self) -> list[str]:
        """All tags of the repository."""


class Target(Protocol):
    """One repository on one registry, to push to."""

    async def blob(self, blob: Digest, mount_from: str | None, told: Told, waiting: Told) -> Pushed:
        """Make a blob of the content store part of the repository, by upload only if there is no other way.

        `waiting` hears the seconds until the next try.
        """

    async def manifest(self, tag: str, media_type: str, body: bytes) -> Digest:
        """Name a manifest whose blobs are all there."""


class Registries(Protocol):
    """Doors to registries."""

    def sources(self, reference: Reference, credentials: Credentials) -> AbstractAsyncContextManager[Sequence[Source]]:
        """Where an image may be pulled from: mirrors first, its own registry last, which alone gets credentials."""

    async def catalog(self, host: str, credentials: Credentials) -> list[str]:
        """The repositories of a registry. Raises Unauthorized, Unavailable, NotFound for one that lists none."""

    async def hub(self, term: str, limit: int) -> list[HubResult]:
        """What Docker Hub finds. Raises Unavailable."""

    async def login(self, host: str, credentials: Credentials) -> str:
        """An identity token, mostly empty, when the registry takes the credentials. Raises Unauthorized."""

    @property
    def mirrors(self) -> Sequence[str]:
        """Registries that are asked before docker.io."""

    def target(self, reference: Reference, credentials: Credentials) -> AbstractAsyncContextManager[Target]:
        """Where an image is pushed to."""
