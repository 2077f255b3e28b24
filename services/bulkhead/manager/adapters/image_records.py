"""Images in the records: the tables images, image_layers, tags, repo_digests and layers.

A `Change` is one durable transaction: an image, its layers and its names appear together or not at all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from bulkhead.content.manifests import MAX_CONFIG, decode_object
from bulkhead.manager.adapters.database import Database
from bulkhead.manager.images.catalogue import Change, Tag
from bulkhead.manager.images.records import ImageRecord, Layer
from bulkhead.model.digest import Digest
from bulkhead.model.image import image_config
from bulkhead.model.reference import Reference, parse_reference


@dataclass(frozen=True, slots=True)
class SqliteImageRecords:
    """The records of images, kept in the manager's database."""

    database: Database

    async def load(self) -> Change:
        """All there is, as one change of empty books."""
        return await self.database.read(_load)

    async def commit(self, change: Change, boot: str) -> None:
        """Write a change, durably. `boot` is noted with layers that were not there before."""
        await self.database.write(lambda connection: _write(connection, change, boot), durable=True)

    async def unsynced(self) -> dict[Digest, str]:
        """Layers not yet known to be on disk, and the boot in which they were unpacked."""
        rows = await self.database.read(
            lambda connection: connection.execute(
                "SELECT chain_id, unsynced_boot FROM layers WHERE unsynced_boot != ''"
            ).fetchall()
        )
        return {Digest.parse(chain): boot for chain, boot in rows}

    async def check(self) -> list[str]:
        """What SQLite finds wrong with the file, and references that lead nowhere."""
        return await self.database.read(_problems)

    async def mark_synced(self, chains: Collection[Digest]) -> None:
        """Note that layers are on disk."""
        rows = [(str(chain),) for chain in chains]
        await self.database.write(
            lambda connection: connection.executemany("UPDATE layers SET unsynced_boot = '' WHERE chain_id = ?", rows),
            durable=False,
        )


def _problems(connection: sqlite3.Connection) -> list[str]:
    found = [str(text) for (text,) in connection.execute("PRAGMA integrity_check") if text != "ok"]
    broken = connection.execute("PRAGMA foreign_key_check").fetchall()
    return found + [f"row {row} of {table} refers to a {other} that is not there" for table, row, other, _ in broken]


def _load(connection: sqlite3.Connection) -> Change:
    layers = _layers(connection)
    return Change(
        images=tuple(
            _image(row, tuple(layers.get(row[0], ())))
            for row in connection.execute(
                "SELECT id, config, manifest_digest, manifest_media_type, manifest_size, removed, created_at"
                " FROM images"
            )
        ),
        tags={
            parse_reference(name): Tag(image=Digest.parse(image), tagged_at=tagged_at)
            for name, image, tagged_at in connection.execute("SELECT name, image_id, tagged_at FROM tags")
        },
        digests={
            parse_reference(f"{repository}@{digest}"): Digest.parse(image)
            for repository, digest, image in connection.execute("SELECT repository, digest, image_id FROM repo_digests")
        },
    )


def _layers(connection: sqlite3.Connection) -> dict[str, list[Layer]]:
    found: dict[str, list[Layer]] = {}
    for image, diff, chain, blob, media_type, blob_size, size in connection.execute(
        "SELECT image_id, l.diff_id, chain_id, blob_digest, media_type, l.size, layers.size"
        " FROM image_layers AS l JOIN layers USING (chain_id) ORDER BY image_id, position"
    ):
        layer = Layer(
            diff_id=Digest.parse(diff),
            chain_id=Digest.parse(chain),
            blob=Digest.parse(blob),
            media_type=media_type,
            blob_size=blob_size,
            size=size,
        )
        found.setdefault(image, []).append(layer)
    return found


def _image(row: tuple[str, bytes, str, str, int, int, int], layers: tuple[Layer, ...]) -> ImageRecord:
    image_id, config, manifest, media_type, manifest_size, removed, created_at = row
    return ImageRecord(
        id=Digest.parse(image_id),
        config=image_config(decode_object(config, MAX_CONFIG, "image config")),
        config_json=config,
        manifest=Digest.parse(manifest),
        manifest_media_type=media_type,
        manifest_size=manifest_size,
        layers=layers,
        created_at=created_at,
        removed=bool(removed),
    )


def _write(connection: sqlite3.Connection, change: Change, boot: str) -> None:
    for image in change.images:
        _write_image(connection, image, boot)
    _drop_references(connection, change.dropped_references)
    connection.executemany(
        "INSERT OR REPLACE INTO tags (name, image_id, tagged_at) VALUES (?, ?, ?)",
        [(name.canonical(), str(tag.image), tag.tagged_at) for name, tag in change.tags.items()],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO repo_digests (repository, digest, image_id) VALUES (?, ?, ?)",
        [(name.name, str(name.digest), str(image)) for name, image in change.digests.items()],
    )
    for image_id in change.dropped_images:
        connection.execute("DELETE FROM tags WHERE image_id = ?", (str(image_id),))
        connection.execute("DELETE FROM images WHERE id = ?", (str(image_id),))
    connection.execute("DELETE FROM layers WHERE chain_id NOT IN (SELECT chain_id FROM image_layers)")


def _write_image(connection: sqlite3.Connection, image: ImageRecord, boot: str) -> None:
    connection.execute(
        "INSERT INTO images (id, config, manifest_digest, manifest_media_type, manifest_size, removed, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET manifest_digest = excluded.manifest_digest,"
        " manifest_media_type = excluded.manifest_media_type, manifest_size = excluded.manifest_size,"
        " removed = excluded.removed",
        (
            str(image.id),
            image.config_json,
            str(image.manifest),
            image.manifest_media_type,
            image.manifest_size,
            image.removed,
            image.created_at,
        ),
    )
    connection.execute("DELETE FROM image_layers WHERE image_id = ?", (str(image.id),))
    parent = ""
    for position, layer in enumerate(image.layers):
        connection.execute(
            "INSERT OR IGNORE INTO layers (chain_id, diff_id, parent, size, unsynced_boot) VALUES (?, ?, ?, ?, ?)",
            (str(layer.chain_id), str(layer.diff_id), parent, layer.size, boot),
        )
        connection.execute(
            "INSERT INTO image_layers (image_id, position, diff_id, chain_id, blob_digest, media_type, size)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                str(image.id),
                position,
                str(layer.diff_id),
                str(layer.chain_id),
                str(layer.blob),
                layer.media_type,
                layer.blob_size,
            ),
        )
        parent = str(layer.chain_id)


def _drop_references(connection: sqlite3.Connection, references: Iterable[Reference]) -> None:
    for name in references:
        if name.digest is not None:
            connection.execute(
                "DELETE FROM repo_digests WHERE repository = ? AND digest = ?", (name.name, str(name.digest))
            )
        else:
            connection.execute("DELETE FROM tags WHERE name = ?", (name.canonical(),))
