"""The registry's storage: metadata in SQLite, bytes as objects, uploads in local files.

    <root>/                     0700; one process owns it (flock on `lock`)
      format                    {"version": 2}
      meta.sqlite               see schema.py
      uploads/<uuid>.*          see sessions.py
      restoring                 there while meta.sqlite is being rebuilt from the records
      incoming/<32 hex>         small objects on their way in (file system only)
      objects/<xx>/<30 hex>     blobs and manifests, each under a name of its own (file system only)
      records/<hex>             what the metadata says of one repository (file system only; see records.py)

An object is durable before the row that names it is committed. Since one process owns the root, what it has
under way is in memory (`_arriving`): an object that is neither there nor in a row is nobody's.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from bulkhead.content.blocking import Blocking
from bulkhead.content.durable import disk_errors, make_directories, sync_directory, take_lock, write_file
from bulkhead.content.manifests import MAX_MANIFEST, Descriptor
from bulkhead.errors import BulkheadError, Conflict, DataLoss, NotFound
from bulkhead.model.digest import Digest
from bulkhead.registry.adapters import catalogue, records, sweeping
from bulkhead.registry.adapters.catalogue import Held
from bulkhead.registry.adapters.database import Database
from bulkhead.registry.adapters.sessions import Sessions
from bulkhead.registry.collection import Policy
from bulkhead.registry.ports import (
    Blob,
    Content,
    NewManifest,
    Objects,
    Page,
    StoredManifest,
    Swept,
    Upload,
    UploadWriter,
)

T = TypeVar("T")

FORMAT_VERSION = 2
# Manifests are a few KiB; this many bytes of them hold a busy registry's working set.
CACHE_BYTES = 64 << 20
STRIPES = 256
OBJECTS = "objects/"
# Objects that are looked up in one query when orphans are sought.
LOOKUP = 400


class DurableStorage:
    """Implements ports.Storage and collection.Sweepable. Use `open` and `close`."""

    def __init__(
        self, root: Path, objects: Objects, blocking: Blocking, policy: Policy, clock: Callable[[], float] = time.time
    ) -> None:
        self._root = root
        self._objects = objects
        self._policy = policy
        self._clock = clock
        self._blocking = blocking
        self._database = Database(root / "meta.sqlite", blocking)
        self._sessions = Sessions(root / "uploads", blocking, self._keep_upload, policy.upload_ttl)
        self._records = records.Records(self._database, objects)
        self._cache = _Cache(CACHE_BYTES)
        # Striped, because names come from clients: a table by name would grow without bound.
        self._generations = [0] * STRIPES
        self._arriving: set[str] = set()
        self._lock_fd = -1

    async def open(self) -> None:
        """Take the root, make or check what is in it; rebuild lost metadata from the store.

        Raises Conflict when another process has the root or its format is another, DataLoss when the metadata
        cannot be read.
        """
        try:
            await self._blocking.run(self._open_root)
            await self._objects.open()
            await self._objects.sweep()
            await self._open_database()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Give everything back. No call may be under way."""
        await self._objects.close()
        await self._blocking.run(self._database.close)
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    # --- blobs ---------------------------------------------------------------------------------------

    async def blob(self, repository: str, digest: Digest) -> Blob | None:
        held = await self._database.read(catalogue.linked, repository, digest)
        if held is None or not await self._renewed(repository, digest, held.touched):
            return None
        return Blob(digest=digest, size=held.size, key=held.key)

    async def open_blob(self, blob: Blob) -> Content:
        return await self._objects.read(blob.key)

    async def mount_blob(self, repository: str, digest: Digest, source: str) -> Blob | None:
        now = self._clock()
        held = await self._database.write(catalogue.mount, repository, digest, source, now)
        return Blob(digest=digest, size=held.size, key=held.key) if held is not None else None

    async def unlink_blob(self, repository: str, digest: Digest) -> None:
        await self._database.write(catalogue.unlink, repository, digest)

    # --- uploads -------------------------------------------------------------------------------------

    async def start_upload(self, repository: str, algorithm: str) -> Upload:
        return await self._sessions.start(repository, algorithm)

    async def upload(self, repository: str, upload_id: str) -> Upload:
        return await self._sessions.get(repository, upload_id)

    def writing(self, upload: Upload) -> AbstractAsyncContextManager[UploadWriter]:
        return self._sessions.writing(upload)

    async def cancel_upload(self, upload: Upload) -> None:
        await self._sessions.cancel(upload)

    # --- manifests -----------------------------------------------------------------------------------

    async def manifest(self, repository: str, reference: Digest | str) -> StoredManifest | None:
        key = (repository, self._generation(repository), str(reference))
        found = self._cache.get(key)
        if found is None:
            found = await self._manifest(repository, reference)
            if found is not None:
                self._cache.put(key, found)
        return found

    async def put_manifest(self, repository: str, manifest: NewManifest, tags: Sequence[str]) -> None:
        digest, body = manifest.stored.digest, manifest.stored.body
        now = self._clock()
        # Once without effect: bytes that will be refused need not be stored.
        await self._database.read(catalogue.check, repository, manifest)

        def put(connection: sqlite3.Connection) -> None:
            catalogue.put_manifest(connection, repository, manifest, tags, now)

        def put_again(connection: sqlite3.Connection) -> bool:
            stored = catalogue.renew(connection, digest, now)
            if stored:
                put(connection)
            return stored

        with self._changing(repository):
            if await self._is_sound(digest, len(body)) and await self._database.write(put_again):
                return
            key = self._new_key()
            with self._arrival(key):
                await self._store(Held(size=len(body), key=key, touched=now), digest, self._objects.put(key, body), put)

    async def delete_manifest(self, repository: str, digest: Digest) -> None:
        with self._changing(repository):
            await self._database.write(catalogue.delete_manifest, repository, digest)

    async def delete_tag(self, repository: str, tag: str) -> None:
        with self._changing(repository):
            await self._database.write(catalogue.delete_tag, repository, tag)

    async def tags(self, repository: str, *, after: str, limit: int) -> Page:
        return await self._database.read(catalogue.tags, repository, after, limit)

    async def repositories(self, *, after: str, limit: int) -> Page:
        return await self._database.read(catalogue.repositories, after, limit)

    async def referrers(self, repository: str, subject: Digest) -> tuple[Descriptor, ...]:
        return await self._database.read(catalogue.referrers, repository, subject)

    # --- collection ----------------------------------------------------------------------------------

    async def sweep(self) -> Swept:
        """One round of the collector: see sweeping.py."""
        policy, now = self._policy, self._clock()
        horizon = now - policy.grace
        manifests = await self._remove_untagged(horizon) if policy.untagged else 0
        links = blobs = 0
        for old in _batches(await self._database.read(sweeping.links, horizon)):
            links += await self._database.write(sweeping.remove_links, old, horizon)
        for lost in _batches(await self._database.read(sweeping.blobs, horizon)):
            blobs += await self._database.write(sweeping.condemn, lost, horizon, now + policy.reader_grace)
        await self._database.write(sweeping.drop_empty_repositories)
        objects, freed = await self._reap()
        uploads = await self._sessions.sweep(now)
        return Swept(manifests=manifests, links=links, blobs=blobs, objects=objects, uploads=uploads, bytes=freed)

    async def sweep_orphans(self) -> Swept:
        """Delete objects that no row knows: what a process that died had stored and not yet committed."""
        count = freed = 0
        page: list[tuple[str, int]] = []
        async for entry in self._objects.list(OBJECTS):
            # It is there already, so it began to arrive before now: if it is not arriving any more, its row was
            # committed before now, and is seen when we look for it after now.
            if entry[0] not in self._arriving:
                page.append(entry)
            if len(page) >= LOOKUP:
                count, freed = await self._delete_unknown(page, count, freed)
                page = []
        count, freed = await self._delete_unknown(page, count, freed)
        return Swept(objects=count, bytes=freed)

    async def save_records(self) -> int:
        """Bring the store's own copy of the metadata up to date; how many repositories were behind."""
        return await self._records.save()

    # --- inside --------------------------------------------------------------------------------------

    async def _renewed(self, repository: str, digest: Digest, touched: float) -> bool:
        """Renew a lease, unless that was done a moment ago; False when there is nothing left to renew."""
        now = self._clock()
        if touched > now - self._policy.renewal:
            return True
        return await self._database.write(catalogue.touch, repository, digest, now)

    async def _keep_upload(self, repository: str, digest: Digest, size: int, path: Path) -> Blob:
        now = self._clock()

        def link(connection: sqlite3.Connection) -> bool:
            return catalogue.link(connection, repository, digest, now)

        if await self._is_sound(digest, size) and await self._database.write(link):
            return Blob(digest=digest, size=size)
        key = self._new_key()
        with self._arrival(key):
            await self._store(Held(size=size, key=key, touched=now), digest, self._objects.adopt(path, key), link)
        return Blob(digest=digest, size=size, key=key)

    async def _store(
        self, held: Held, digest: Digest, storing: Awaitable[None], then: Callable[[sqlite3.Connection], object]
    ) -> None:
        """Finish an object, then make it the digest's bytes in one transaction with `then`."""

        def commit(connection: sqlite3.Connection) -> None:
            catalogue.keep(connection, digest, held, held.touched + self._policy.reader_grace)
            then(connection)

        try:
            await storing
            await self._database.write(commit)
        except BulkheadError:
            # Nothing names it. When this fails too, the sweep of orphans finds it.
            with suppress(BulkheadError):
                await self._objects.delete(held.key)
            raise

    async def _is_sound(self, digest: Digest, size: int) -> bool:
        """Whether these bytes are stored, and as many as there should be."""
        held = await self._database.read(catalogue.stored, digest)
        return held is not None and held.size == size and await self._objects.size(held.key) == size

    async def _manifest(self, repository: str, reference: Digest | str) -> StoredManifest | None:
        row = await self._database.read(catalogue.manifest, repository, reference)
        if row is None:
            return None
        try:
            body = await self._objects.get(row.held.key, MAX_MANIFEST)
        except NotFound:
            return None
        if Digest.of(body, row.digest.algorithm) != row.digest:
            raise DataLoss(f"cannot read manifest {row.digest}: its bytes in the store do not have this digest")
        return StoredManifest(digest=row.digest, media_type=row.media_type, body=body)

    async def _remove_untagged(self, horizon: float) -> int:
        found = await self._database.read(sweeping.untagged, horizon)
        removed = 0
        for some in _batches(found):
            removed += await self._database.write(sweeping.remove_untagged, some, horizon)
            for _, name, _ in some:
                self._change(name)
        return removed

    async def _reap(self) -> tuple[int, int]:
        """Delete the objects whose tombstones are due; how many, and their bytes."""
        now = self._clock()
        count = freed = 0
        for some in _batches(await self._database.read(sweeping.due, now)):
            for key, size in some:
                await self._objects.delete(key)
                count, freed = count + 1, freed + size
            keys = [key for key, _ in some]
            await self._database.write(sweeping.forget, keys)
        return count, freed

    async def _delete_unknown(self, page: list[tuple[str, int]], count: int, freed: int) -> tuple[int, int]:
        keys = [key for key, _ in page]
        known = await self._database.read(sweeping.known, keys)
        for key, size in page:
            if key not in known:
                await self._objects.delete(key)
                count, freed = count + 1, freed + size
        return count, freed

    def _generation(self, repository: str) -> int:
        return self._generations[hash(repository) % STRIPES]

    def _change(self, repository: str) -> None:
        self._generations[hash(repository) % STRIPES] += 1

    @contextmanager
    def _changing(self, repository: str) -> Iterator[None]:
        """What was cached of a repository is old once this is left."""
        try:
            yield
        finally:
            self._change(repository)

    @contextmanager
    def _arrival(self, key: str) -> Iterator[None]:
        self._arriving.add(key)
        try:
            yield
        finally:
            self._arriving.discard(key)

    def _new_key(self) -> str:
        name = secrets.token_hex(16)
        return f"{OBJECTS}{name[:2]}/{name[2:]}"

    def _open_root(self) -> None:
        with disk_errors(f"open registry {self._root}"):
            make_directories(self._root)
            self._lock_fd = self._take_lock()
            self._check_format()
        self._sessions.open()

    async def _open_database(self) -> None:
        """A file that is not there, or was not whole when we died, is made from the store's records."""
        path, marker = self._root / "meta.sqlite", self._root / "restoring"
        whole = await self._blocking.run(lambda: path.exists() and not marker.exists())
        if not whole:
            await self._blocking.run(self._begin_anew, path, marker)
        await self._blocking.run(self._database.open)
        if not whole:
            await self._records.restore()
            await self._blocking.run(self._end_anew, marker)

    def _begin_anew(self, path: Path, marker: Path) -> None:
        with disk_errors(f"make {path}"):
            write_file(marker, b"")
            for left in (path, path.with_name("meta.sqlite-wal"), path.with_name("meta.sqlite-shm")):
                left.unlink(missing_ok=True)

    def _end_anew(self, marker: Path) -> None:
        with disk_errors(f"remove {marker}"):
            marker.unlink()
            sync_directory(self._root)

    def _take_lock(self) -> int:
        return take_lock(self._root / "lock", f"cannot open registry {self._root}: another process uses it")

    def _check_format(self) -> None:
        wanted, path = {"version": FORMAT_VERSION}, self._root / "format"
        if not path.exists():
            write_file(path, msgspec.json.encode(wanted))
        elif msgspec.json.decode(path.read_bytes()) != wanted:
            raise Conflict(f"cannot open registry {self._root}: its format is not version {FORMAT_VERSION}")


def _batches(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(rows), sweeping.BATCH):
        yield rows[start : start + sweeping.BATCH]


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
        if key not in self._entries:
            self._entries[key] = manifest
            self._used += len(manifest.body)
        while self._used > self._limit:
            _, dropped = self._entries.popitem(last=False)
            self._used -= len(dropped.body)
