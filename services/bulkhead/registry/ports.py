"""What the registry needs of a storage, said in the registry's words.

`Storage` is what the endpoints ask: each method is one transaction; when it returned, its effect survives
power loss; when it raised, there is none. `Objects` is where the bytes lie: a file system or an S3 bucket.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from bulkhead.content.manifests import Descriptor
from bulkhead.model.digest import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A blob as one repository sees it."""

    digest: Digest
    size: int
    key: str = field(default="", compare=False)
    """The object that holds its bytes; the storage's own business."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredManifest:
    """A manifest's bytes, exactly as they were pushed."""

    digest: Digest
    media_type: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class NewManifest:
    """A validated manifest on its way in."""

    stored: StoredManifest
    blobs: tuple[Digest, ...]
    """Config and layers: each must be in the repository."""
    manifests: tuple[Digest, ...]
    """Children of an index: each must be in the repository."""
    subject: Digest | None
    referrer: Descriptor
    """How this manifest is listed among its subject's referrers."""
    foreign: bool = False
    """Whether it has layers that need not be here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An upload session: a file that grows."""

    id: str
    repository: str
    algorithm: str
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some names in ASCII order, and whether there are more."""

    names: tuple[str, ...]
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What one round of the collector did."""

    manifests: int = 0
    links: int = 0
    blobs: int = 0
    objects: int = 0
    """Deleted from the store, those without a record included."""
    uploads: int = 0
    bytes: int = 0


class Content(Protocol):
    """An object opened for reading."""

    @property
    def file(self) -> BinaryIO | None:
        """The bytes as a local file, where they are one: it can be sent without being copied."""

    def pieces(self, start: int, length: int) -> AsyncIterator[bytes]:
        """The bytes [start, start+length)."""

    async def close(self) -> None: ...


class Objects(Protocol):
    """Named byte strings, each written once and whole. Names are of `[a-z0-9/]`; errors are bulkhead.errors."""

    async def open(self) -> None:
        """Get ready; raises Unavailable when the store cannot be reached."""

    async def close(self) -> None: ...

    async def adopt(self, path: Path, key: str) -> None:
        """Make a synced local file an object; afterwards the object is durable and the file may be gone."""

    async def put(self, key: str, data: bytes) -> None:
        """Store or replace a small object, durably."""

    async def get(self, key: str, limit: int) -> bytes:
        """A small object's bytes; raises NotFound, or DataLoss when there are more than `limit`."""

    async def read(self, key: str) -> Content:
        """Open an object; raises NotFound."""

    async def size(self, key: str) -> int | None:
        """How long an object is, None when there is none."""

    async def delete(self, key: str) -> None:
        """Remove an object; none there is as good."""

    def list(self, prefix: str) -> AsyncIterator[tuple[str, int]]:
        """(key, size) of every object below `prefix`, in no order."""

    async def sweep(self) -> None:
        """Remove what writers that died left half-written. Called while nothing is being written."""


class UploadWriter(Protocol):
    """The one request that may write to an upload now; an older one's next write is refused."""

    @property
    def offset(self) -> int: ...

    async def write(self, data: bytes) -> None:
        """Append; raises Refusal(BLOB_UPLOAD_INVALID) when another request took the upload over."""

    async def finish(self, digest: Digest) -> Blob:
        """Verify, store and link what was uploaded, and end the session.

        Raises Refusal(DIGEST_INVALID), and the session is over then too.
        """


class Storage(Protocol):
    """Everything that the registry keeps."""

    async def blob(self, repository: str, digest: Digest) -> Blob | None:
        """A blob that the repository has; asking renews its lease."""

    async def open_blob(self, blob: Blob) -> Content:
        """A blob's bytes, for as long as the content is open; raises NotFound."""

    async def mount_blob(self, repository: str, digest: Digest, source: str) -> Blob | None:
        """Make a blob of repository `source` (of any, when empty) one of `repository`; None when there is none."""

    async def unlink_blob(self, repository: str, digest: Digest) -> None:
        """Take a blob out of a repository; raises Refusal(BLOB_UNKNOWN), or (UNSUPPORTED) while a manifest needs it."""

    async def start_upload(self, repository: str, algorithm: str) -> Upload:
        """Begin a session whose bytes will be hashed with `algorithm`."""

    async def upload(self, repository: str, upload_id: str) -> Upload:
        """A session as it stands; raises Refusal(BLOB_UPLOAD_UNKNOWN)."""

    def writing(self, upload: Upload) -> AbstractAsyncContextManager[UploadWriter]:
        """Write to a session; on leaving, what was written is durable and counted."""

    async def cancel_upload(self, upload: Upload) -> None:
        """Forget a session and its bytes."""

    async def manifest(self, repository: str, reference: Digest | str) -> StoredManifest | None:
        """A manifest by digest or by tag."""

    async def put_manifest(self, repository: str, manifest: NewManifest, tags: Sequence[str]) -> None:
        """Add a manifest and point tags at it; raises Refusal(MANIFEST_BLOB_UNKNOWN)."""

    async def delete_manifest(self, repository: str, digest: Digest) -> None:
        """Remove a manifest and every tag on it; raises Refusal(MANIFEST_UNKNOWN)."""

    async def delete_tag(self, repository: str, tag: str) -> None:
        """Remove a tag, not what it points at; raises Refusal(MANIFEST_UNKNOWN)."""

    async def tags(self, repository: str, *, after: str, limit: int) -> Page:
        """Tags that follow `after`; raises Refusal(NAME_UNKNOWN)."""

    async def repositories(self, *, after: str, limit: int) -> Page:
        """Repositories that follow `after`."""

    async def referrers(self, repository: str, subject: Digest) -> tuple[Descriptor, ...]:
        """Manifests whose subject is `subject`, which need not exist."""
