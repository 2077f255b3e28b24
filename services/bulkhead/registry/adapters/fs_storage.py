"""The registry's storage on a local file system: every change is one atomic, synced file.

The process owns its root alone (content.store's lock), so what it has read stays true until it
changes it itself: manifests are cached under the generation of their repository, and every change of
a repository begins a new one.
"""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

import msgspec

from bulkhead.content.blocking import Blocking
from bulkhead.content.durable import disk_errors, make_directories, sync_directory, write_file
from bulkhead.content.manifests import MAX_MANIFEST, Descriptor
from bulkhead.content.store import BlobStore
from bulkhead.errors import Conflict, NotFound
from bulkhead.model.digest import Digest
from bulkhead.registry.adapters.fs_layout import FORMAT_VERSION, Layout, visible
from bulkhead.registry.adapters.fs_uploads import Uploads
from bulkhead.registry.errors import Code, Refusal
from bulkhead.registry.ports import Blob, NewManifest, Page, StoredManifest, Upload, UploadWriter

P = ParamSpec("P")
T = TypeVar("T")

WORKERS = 8
# Manifests are a few KiB; this many bytes of them hold a busy registry's working set.
CACHE_BYTES = 64 << 20


STRIPES = 256


@dataclass(slots=True)
class _Stripe:
    """Some repositories: who changes one of them now, and how often any was changed."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    generation: int = 0


class _Record(msgspec.Struct):
    """A manifest as one repository has it: what is needed without reading its bytes."""

    media_type: str
    size: int
    blobs: list[str]
    manifests: list[str]
    subject: str | None
    artifact_type: str
    annotations: dict[str, str]


class FileStorage:
    """Implements ports.Storage below one directory."""

    def __init__(self, root: Path) -> None:
        self._layout = Layout(root)
        self._blocking = Blocking(WORKERS)
        self._store = BlobStore(self._layout.content, self._blocking)
        self._uploads = Uploads(self._layout, self._store)
        # Striped, because names come from clients: a table by name would grow without bound.
        self._stripes = tuple(_Stripe() for _ in range(STRIPES))
        self._cache = _Cache(CACHE_BYTES)

    def open(self) -> None:
        """Make the tree or check its format, take its lock, sweep old uploads. Raises Conflict."""
        layout = self._layout
        with disk_errors(f"open registry {layout.root}"):
            make_directories(layout.root)
            self._store.open()
            for directory in (layout.uploads, layout.repositories):
                make_directories(directory)
            self._check_format()
            self._uploads.sweep()

    def close(self) -> None:
        """Give the root back."""
        self._store.close()

    async def blob(self, repository: str, digest: Digest) -> Blob | None:
        return await self._blocking.run(self._blob, repository, digest)

    async def open_blob(self, digest: Digest) -> BinaryIO:
        return await self._blocking.run(self._store.open_blob, digest)

    async def mount_blob(self, repository: str, digest: Digest, source: str) -> Blob | None:
        return await self._changing(repository, self._mount_blob, repository, digest, source)

    async def unlink_blob(self, repository: str, digest: Digest) -> None:
        await self._changing(repository, self._unlink_blob, repository, digest)

    async def start_upload(self, repository: str, algorithm: str) -> Upload:
        return await self._uploads.start(repository, algorithm)

    async def upload(self, repository: str, upload_id: str) -> Upload:
        return await self._uploads.get(repository, upload_id)

    def writing(self, upload: Upload) -> AbstractAsyncContextManager[UploadWriter]:
        return self._writing(upload)

    async def cancel_upload(self, upload: Upload) -> None:
        await self._uploads.cancel(upload)

    async def manifest(self, repository: str, reference: Digest | str) -> StoredManifest | None:
        key = (repository, self._stripe(repository).generation, str(reference))
        found = self._cache.get(key)
        if found is None:
            found = await self._blocking.run(self._manifest, repository, reference)
            if found is not None:
                self._cache.put(key, found)
        return found

    async def put_manifest(self, repository: str, manifest: NewManifest, tags: Sequence[str]) -> None:
        await self._changing(repository, self._put_manifest, repository, manifest, tags)

    async def delete_manifest(self, repository: str, digest: Digest) -> None:
        await self._changing(repository, self._delete_manifest, repository, digest)

    async def delete_tag(self, repository: str, tag: str) -> None:
        await self._changing(repository, self._delete_tag, repository, tag)

    async def tags(self, repository: str, *, after: str, limit: int) -> Page:
        return _page(await self._blocking.run(self._tags, repository), after, limit)

    async def repositories(self, *, after: str, limit: int) -> Page:
        return _page(await self._blocking.run(self._layout.repository_names), after, limit)

    async def referrers(self, repository: str, subject: Digest) -> tuple[Descriptor, ...]:
        return await self._blocking.run(self._referrers, repository, subject)

    @asynccontextmanager
    async def _writing(self, upload: Upload) -> AsyncIterator[UploadWriter]:
        async with self._uploads.writing(upload, self._add_link) as writer:
            yield writer

    async def _changing(self, repository: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """One change of a repository at a time, and a new generation after it."""
        stripe = self._stripe(repository)
        async with stripe.lock:
            try:
                return await self._blocking.run(call, *args, **kwargs)
            finally:
                stripe.generation += 1

    def _stripe(self, repository: str) -> _Stripe:
        return self._stripes[hash(repository) % STRIPES]

    def _check_format(self) -> None:
        wanted = {"version": FORMAT_VERSION}
        if not self._layout.format.exists():
            write_file(self._layout.format, msgspec.json.encode(wanted))
        elif msgspec.json.decode(self._layout.format.read_bytes()) != wanted:
            raise Conflict(f"cannot open registry {self._layout.root}: its format is not version {FORMAT_VERSION}")

    def _blob(self, repository: str, digest: Digest) -> Blob | None:
        try:
            # The lease and the look are one system call.
            os.utime(self._layout.link(repository, digest))
            return Blob(digest=digest, size=self._store.size(digest))
        except (FileNotFoundError, NotFound):
            return None

    def _mount_blob(self, repository: str, digest: Digest, source: str) -> Blob | None:
        blob = self._blob(source, digest)
        if blob is not None:
            self._add_link(repository, digest)
        return blob

    def _add_link(self, repository: str, digest: Digest) -> None:
        path = self._layout.link(repository, digest)
        with disk_errors(f"link blob {digest}"):
            make_directories(path.parent)
            if path.exists():
                os.utime(path)
                return
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            sync_directory(path.parent)

    def _unlink_blob(self, repository: str, digest: Digest) -> None:
        if self._blob(repository, digest) is None:
            raise Refusal(Code.BLOB_UNKNOWN, detail={"digest": str(digest)})
        for owner, record in self._records(repository):
            if str(digest) in record.blobs:
                raise Refusal(Code.UNSUPPORTED, f"the blob is part of manifest {owner}")
        self._remove(self._layout.link(repository, digest))

    def _manifest(self, repository: str, reference: Digest | str) -> StoredManifest | None:
        try:
            digest = reference if isinstance(reference, Digest) else self._tag(repository, reference)
            record = self._record(repository, digest)
        except FileNotFoundError:
            return None
        try:
            body = self._store.read(digest, MAX_MANIFEST)
        except NotFound:
            return None
        return StoredManifest(digest=digest, media_type=record.media_type, body=body)

    def _put_manifest(self, repository: str, manifest: NewManifest, tags: Sequence[str]) -> None:
        missing = self._missing(repository, manifest)
        if missing:
            raise Refusal(Code.MANIFEST_BLOB_UNKNOWN, detail=[{"digest": str(digest)} for digest in missing])
        digest = manifest.stored.digest
        self._store.put_now(manifest.stored.body, digest)
        with disk_errors(f"store manifest {digest}"):
            self._write(self._layout.manifest(repository, digest), msgspec.json.encode(_record(manifest)))
            if manifest.subject is not None:
                self._write(self._layout.referrer(repository, manifest.subject, digest), b"")
            for tag in tags:
                self._write(self._layout.tag(repository, tag), str(digest).encode())

    def _missing(self, repository: str, manifest: NewManifest) -> list[Digest]:
        missing = [digest for digest in manifest.blobs if self._blob(repository, digest) is None]
        missing += [digest for digest in manifest.manifests if not self._layout.manifest(repository, digest).exists()]
        return missing

    def _delete_manifest(self, repository: str, digest: Digest) -> None:
        path = self._layout.manifest(repository, digest)
        try:
            record = self._record(repository, digest)
        except FileNotFoundError:
            raise Refusal(Code.MANIFEST_UNKNOWN, detail={"digest": str(digest)}) from None
        # The tags first: a tag must never point at a manifest that is gone.
        for tag in visible(self._layout.tags(repository)):
            if self._tag(repository, tag) == digest:
                self._remove(self._layout.tag(repository, tag))
        if record.subject is not None:
            self._remove(self._layout.referrer(repository, Digest.parse(record.subject), digest))
        self._remove(path)

    def _delete_tag(self, repository: str, tag: str) -> None:
        if not self._remove(self._layout.tag(repository, tag)):
            raise Refusal(Code.MANIFEST_UNKNOWN, detail={"tag": tag})

    def _tags(self, repository: str) -> list[str]:
        if not self._layout.manifests(repository).is_dir():
            raise Refusal(Code.NAME_UNKNOWN, detail={"name": repository})
        return visible(self._layout.tags(repository))

    def _referrers(self, repository: str, subject: Digest) -> tuple[Descriptor, ...]:
        found = []
        for name in visible(self._layout.referrers(repository, subject)):
            digest = Digest.parse(name.replace("-", ":", 1))
            try:
                record = self._record(repository, digest)
            except FileNotFoundError:
                continue
            found.append(_descriptor(digest, record))
        return tuple(found)

    def _records(self, repository: str) -> list[tuple[Digest, _Record]]:
        directory = self._layout.manifests(repository)
        digests = [
            Digest(algorithm, name) for algorithm in visible(directory) for name in visible(directory / algorithm)
        ]
        return [(digest, self._record(repository, digest)) for digest in digests]

    def _record(self, repository: str, digest: Digest) -> _Record:
        return msgspec.json.decode(self._layout.manifest(repository, digest).read_bytes(), type=_Record)

    def _tag(self, repository: str, tag: str) -> Digest:
        return Digest.parse(self._layout.tag(repository, tag).read_text())

    def _write(self, path: Path, data: bytes) -> None:
        make_directories(path.parent)
        write_file(path, data)

    def _remove(self, path: Path) -> bool:
        with disk_errors(f"delete {path.name}"):
            try:
                path.unlink()
            except FileNotFoundError:
                return False
            sync_directory(path.parent)
            return True


class _Cache:
    """The manifests asked for lately, up to some bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._entries: OrderedDict[tuple[str, int, str], StoredManifest] = OrderedDict()

    def get(self, key: tuple[str, int, str]) -> StoredManifest | None:
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, key: tuple[str, int, str], manifest: StoredManifest) -> None:
        if key in self._entries:
            return
        self._entries[key] = manifest
        self._used += len(manifest.body)
        while self._used > self._limit:
            _, dropped = self._entries.popitem(last=False)
            self._used -= len(dropped.body)


def _record(manifest: NewManifest) -> _Record:
    return _Record(
        media_type=manifest.stored.media_type,
        size=len(manifest.stored.body),
        blobs=[str(digest) for digest in manifest.blobs],
        manifests=[str(digest) for digest in manifest.manifests],
        subject=str(manifest.subject) if manifest.subject is not None else None,
        artifact_type=manifest.referrer.artifact_type,
        annotations=dict(manifest.referrer.annotations),
    )


def _descriptor(digest: Digest, record: _Record) -> Descriptor:
    return Descriptor(
        media_type=record.media_type,
        digest=digest,
        size=record.size,
        artifact_type=record.artifact_type,
        annotations=record.annotations,
    )


def _page(names: list[str], after: str, limit: int) -> Page:
    start = bisect_right(names, after) if after else 0
    chosen = tuple(names[start : start + limit])
    return Page(names=chosen, more=start + len(chosen) < len(names) and limit > 0)
