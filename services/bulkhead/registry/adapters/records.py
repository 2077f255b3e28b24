"""The store's own copy of the metadata, one small object per repository, for the day the database is lost.

    records/<sha256 of the name>    JSON: name, blobs {digest: [key, size]}, manifests {digest: [key, size,
                                    media type]}, tags {tag: digest}

A record is written some seconds after a change: a lost database costs what was pushed in these. What can be
read from a manifest's own bytes (what it needs, its subject) is read from there.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time

import msgspec
import structlog

from bulkhead.content.manifests import MAX_MANIFEST
from bulkhead.errors import BulkheadError, DataLoss
from bulkhead.model.digest import Digest
from bulkhead.registry.adapters import catalogue
from bulkhead.registry.adapters.catalogue import Held
from bulkhead.registry.adapters.database import Database
from bulkhead.registry.ports import NewManifest, Objects
from bulkhead.registry.validation import validated

RECORDS = "records/"
# A repository of a million tags stays below this; in bytes.
MAX_RECORD = 1 << 30


class _Manifest(msgspec.Struct, array_like=True):
    key: str
    size: int
    media_type: str


class _Record(msgspec.Struct):
    name: str
    blobs: dict[str, tuple[str, int]]
    manifests: dict[str, _Manifest]
    tags: dict[str, str]


class Records:
    """Keeps the copy, and reads it back."""

    def __init__(self, database: Database, objects: Objects) -> None:
        self._database = database
        self._objects = objects

    async def save(self) -> int:
        """Write the record of every repository that changed; how many."""
        dirty = await self._database.read(_dirty)
        for name, version in dirty:
            record = await self._database.read(_record, name)
            if record is None:
                await self._objects.delete(_key(name))
            else:
                await self._objects.put(_key(name), msgspec.json.encode(record))
            await self._database.write(_clean, name, version)
        return len(dirty)

    async def restore(self) -> int:
        """Fill an empty database from the records; how many repositories were found."""
        count = 0
        async for key, _ in self._objects.list(RECORDS):
            record = msgspec.json.decode(await self._objects.get(key, MAX_RECORD), type=_Record)
            await self._restore(record)
            count += 1
        if count:
            structlog.get_logger().warning("metadata was lost and is rebuilt from the store", repositories=count)
        return count

    async def _restore(self, record: _Record) -> None:
        now = time.time()
        blobs = {digest: held for digest, held in record.blobs.items() if await self._objects.size(held[0]) == held[1]}
        manifests = {}
        for digest, entry in record.manifests.items():
            found = await self._manifest(digest, entry)
            if found is not None:
                manifests[digest] = found
        await self._database.write(_insert, record, blobs, manifests, now)

    async def _manifest(self, digest: str, entry: _Manifest) -> NewManifest | None:
        try:
            body = await self._objects.get(entry.key, MAX_MANIFEST)
            parsed = Digest.parse(digest)
            if Digest.of(body, parsed.algorithm) != parsed:
                raise DataLoss("its bytes do not have this digest")
            return validated(body, entry.media_type, parsed)
        except BulkheadError as error:
            structlog.get_logger().warning("manifest lost", digest=digest, reason=str(error))
            return None


def _key(name: str) -> str:
    return RECORDS + hashlib.sha256(name.encode()).hexdigest()


def _dirty(connection: sqlite3.Connection) -> list[tuple[str, int]]:
    return connection.execute("SELECT name, version FROM dirty").fetchall()


def _clean(connection: sqlite3.Connection, name: str, version: int) -> None:
    connection.execute("DELETE FROM dirty WHERE name = ? AND version = ?", (name, version))


def _record(connection: sqlite3.Connection, name: str) -> _Record | None:
    row = connection.execute("SELECT id FROM repositories WHERE name = ?", (name,)).fetchone()
    if row is None:
        return None
    blobs = connection.execute(
        "SELECT digest, key, size FROM links JOIN blobs USING (digest) WHERE repository = ?", row
    )
    manifests = connection.execute(
        "SELECT digest, key, size, media_type FROM manifests JOIN blobs USING (digest) WHERE repository = ?", row
    )
    tags = connection.execute("SELECT tag, digest FROM tags WHERE repository = ?", row)
    return _Record(
        name=name,
        blobs={digest: (key, size) for digest, key, size in blobs},
        manifests={digest: _Manifest(key, size, kind) for digest, key, size, kind in manifests},
        tags=dict(tags),
    )


def _insert(
    connection: sqlite3.Connection,
    record: _Record,
    blobs: dict[str, tuple[str, int]],
    manifests: dict[str, NewManifest],
    now: float,
) -> None:
    for digest, (key, size) in blobs.items():
        _hold(connection, Digest.parse(digest), Held(size=size, key=key, touched=now))
        catalogue.link(connection, record.name, Digest.parse(digest), now)
    # Children before those that need them; what lacks something is lost with it.
    waiting = dict(manifests)
    while waiting:
        ready = [digest for digest, new in waiting.items() if not catalogue.missing(connection, record.name, new)]
        if not ready:
            structlog.get_logger().warning("manifests lost", repository=record.name, count=len(waiting))
            return
        for digest in ready:
            new, entry = waiting.pop(digest), record.manifests[digest]
            _hold(connection, new.stored.digest, Held(size=entry.size, key=entry.key, touched=now))
            tags = [tag for tag, target in record.tags.items() if target == digest]
            catalogue.put_manifest(connection, record.name, new, tags, now)


def _hold(connection: sqlite3.Connection, digest: Digest, held: Held) -> None:
    if catalogue.stored(connection, digest) is None:
        catalogue.keep(connection, digest, held, 0.0)
