"""The registry's metadata in SQL: each function is what one transaction does."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from bulkhead.content.manifests import Descriptor
from bulkhead.model.digest import Digest
from bulkhead.registry.errors import Code, Refusal
from bulkhead.registry.ports import NewManifest, Page

_ANNOTATIONS = msgspec.json.Decoder(dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A blob's bytes: how many, in which object, and when somebody last asked for them."""

    size: int
    key: str
    touched: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    """A manifest without its bytes."""

    digest: Digest
    media_type: str
    held: Held


def linked(connection: sqlite3.Connection, repository: str, digest: Digest) -> Held | None:
    """The blob as the repository has it; `touched` is its link's."""
    row = connection.execute(
        "SELECT blobs.size, blobs.key, links.touched FROM links JOIN blobs USING (digest)"
        " WHERE repository = (SELECT id FROM repositories WHERE name = ?) AND digest = ?",
        (repository, str(digest)),
    ).fetchone()
    return Held(size=row[0], key=row[1], touched=row[2]) if row is not None else None


def stored(connection: sqlite3.Connection, digest: Digest) -> Held | None:
    """The blob, whoever has it."""
    row = connection.execute("SELECT size, key, touched FROM blobs WHERE digest = ?", (str(digest),)).fetchone()
    return Held(size=row[0], key=row[1], touched=row[2]) if row is not None else None


def touch(connection: sqlite3.Connection, repository: str, digest: Digest, now: float) -> bool:
    """Renew a link's lease; False when the repository no longer has the blob."""
    return (
        connection.execute(
            "UPDATE links SET touched = max(touched, ?)"
            " WHERE repository = (SELECT id FROM repositories WHERE name = ?) AND digest = ?",
            (now, repository, str(digest)),
        ).rowcount
        > 0
    )


def link(connection: sqlite3.Connection, repository: str, digest: Digest, now: float) -> bool:
    """Show a stored blob in a repository; False when it is not stored."""
    if not renew(connection, digest, now):
        return False
    connection.execute(
        "INSERT INTO links VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET touched = excluded.touched",
        (_make_repository(connection, repository), str(digest), now),
    )
    soil(connection, repository)
    return True


def mount(connection: sqlite3.Connection, repository: str, digest: Digest, source: str, now: float) -> Held | None:
    """Link a blob that `source` has, or, without `source`, that any repository has."""
    held = linked(connection, source, digest) if source else stored(connection, digest)
    return held if held is not None and link(connection, repository, digest, now) else None


def unlink(connection: sqlite3.Connection, repository: str, digest: Digest) -> None:
    """Take a blob out of a repository in which no manifest needs it."""
    if linked(connection, repository, digest) is None:
        raise Refusal(Code.BLOB_UNKNOWN, detail={"digest": str(digest)})
    repository_id = _repository(connection, repository)
    owner = connection.execute(
        "SELECT manifest FROM edges WHERE repository = ? AND child = ? AND kind = 'blob'", (repository_id, str(digest))
    ).fetchone()
    if owner is not None:
        raise Refusal(Code.UNSUPPORTED, f"the blob is part of manifest {owner[0]}")
    connection.execute("DELETE FROM links WHERE repository = ? AND digest = ?", (repository_id, str(digest)))
    soil(connection, repository)


def renew(connection: sqlite3.Connection, digest: Digest, now: float) -> bool:
    """Renew the lease of a blob itself; False when it is not stored."""
    return connection.execute("UPDATE blobs SET touched = ? WHERE digest = ?", (now, str(digest))).rowcount > 0


def keep(connection: sqlite3.Connection, digest: Digest, held: Held, not_before: float) -> None:
    """Make an object the bytes of a digest; one that was it before is deleted from `not_before` on."""
    before = stored(connection, digest)
    if before is not None:
        bury(connection, before.key, before.size, not_before)
    connection.execute(
        "INSERT INTO blobs VALUES (?, ?, ?, ?)"
        " ON CONFLICT (digest) DO UPDATE SET size = excluded.size, key = excluded.key, touched = excluded.touched",
        (str(digest), held.size, held.key, held.touched),
    )


def bury(connection: sqlite3.Connection, key: str, size: int, not_before: float) -> None:
    """Have an object deleted at some time from then on."""
    connection.execute("INSERT OR REPLACE INTO tombstones VALUES (?, ?, ?)", (key, size, not_before))


def manifest(connection: sqlite3.Connection, repository: str, reference: Digest | str) -> ManifestRow | None:
    """A manifest by digest or tag."""
    repository_id = _repository(connection, repository)
    if isinstance(reference, str):
        found = connection.execute(
            "SELECT digest FROM tags WHERE repository = ? AND tag = ?", (repository_id, reference)
        ).fetchone()
        if found is None:
            return None
        reference = Digest.parse(found[0])
    row = connection.execute(
        "SELECT media_type, size, key, touched FROM manifests JOIN blobs USING (digest)"
        " WHERE repository = ? AND digest = ?",
        (repository_id, str(reference)),
    ).fetchone()
    if row is None:
        return None
    return ManifestRow(digest=reference, media_type=row[0], held=Held(size=row[1], key=row[2], touched=row[3]))


def missing(connection: sqlite3.Connection, repository: str, wanted: NewManifest) -> list[Digest]:
    """What the manifest needs and the repository lacks."""
    repository_id = _repository(connection, repository)
    absent = [digest for digest in wanted.blobs if linked(connection, repository, digest) is None]
    absent += [digest for digest in wanted.manifests if not _has_manifest(connection, repository_id, digest)]
    return absent


def check(connection: sqlite3.Connection, repository: str, wanted: NewManifest) -> None:
    """Raises Refusal(MANIFEST_BLOB_UNKNOWN) when the repository lacks what the manifest needs."""
    absent = missing(connection, repository, wanted)
    if absent:
        raise Refusal(Code.MANIFEST_BLOB_UNKNOWN, detail=[{"digest": str(digest)} for digest in absent])


def put_manifest(
    connection: sqlite3.Connection,
    repository: str,
    new: NewManifest,
    tags: Sequence[str],
    now: float,
) -> None:
    """Add a manifest whose bytes are stored; raises Refusal(MANIFEST_BLOB_UNKNOWN)."""
    check(connection, repository, new)
    repository_id, digest = _make_repository(connection, repository), str(new.stored.digest)
    connection.execute("UPDATE repositories SET listed = 1 WHERE id = ?", (repository_id,))
    connection.execute(
        "INSERT INTO manifests VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET media_type = excluded.media_type, subject = excluded.subject,"
        " artifact_type = excluded.artifact_type, annotations = excluded.annotations, pushed = excluded.pushed",
        (
            *(repository_id, digest, new.stored.media_type, str(new.subject) if new.subject is not None else None),
            *(new.referrer.artifact_type, msgspec.json.encode(dict(new.referrer.annotations)).decode(), now),
        ),
    )
    children = [(str(blob), "blob") for blob in new.blobs] + [(str(child), "manifest") for child in new.manifests]
    connection.executemany(
        "INSERT OR IGNORE INTO edges VALUES (?, ?, ?, ?)", [(repository_id, digest, *child) for child in children]
    )
    connection.executemany(
        "INSERT INTO tags VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET digest = excluded.digest",
        [(repository_id, tag, digest) for tag in tags],
    )
    soil(connection, repository)


def delete_manifest(connection: sqlite3.Connection, repository: str, digest: Digest) -> None:
    """Remove a manifest, and with it its tags and edges."""
    done = connection.execute(
        "DELETE FROM manifests WHERE repository = ? AND digest = ?", (_repository(connection, repository), str(digest))
    )
    if not done.rowcount:
        raise Refusal(Code.MANIFEST_UNKNOWN, detail={"digest": str(digest)})
    soil(connection, repository)


def delete_tag(connection: sqlite3.Connection, repository: str, tag: str) -> None:
    """Remove a tag alone."""
    done = connection.execute(
        "DELETE FROM tags WHERE repository = ? AND tag = ?", (_repository(connection, repository), tag)
    )
    if not done.rowcount:
        raise Refusal(Code.MANIFEST_UNKNOWN, detail={"tag": tag})
    soil(connection, repository)


def tags(connection: sqlite3.Connection, repository: str, after: str, limit: int) -> Page:
    """A page of a repository's tags."""
    row = connection.execute("SELECT id FROM repositories WHERE name = ? AND listed", (repository,)).fetchone()
    if row is None:
        raise Refusal(Code.NAME_UNKNOWN, detail={"name": repository})
    return _page(
        connection.execute(
            "SELECT tag FROM tags WHERE repository = ? AND tag > ? ORDER BY tag LIMIT ?", (row[0], after, limit + 1)
        ),
        limit,
    )


def repositories(connection: sqlite3.Connection, after: str, limit: int) -> Page:
    """A page of the catalogue."""
    return _page(
        connection.execute(
            "SELECT name FROM repositories WHERE name > ? AND listed ORDER BY name LIMIT ?", (after, limit + 1)
        ),
        limit,
    )


def referrers(connection: sqlite3.Connection, repository: str, subject: Digest) -> tuple[Descriptor, ...]:
    """What refers to `subject`, in the order of digests."""
    rows = connection.execute(
        "SELECT digest, media_type, size, artifact_type, annotations FROM manifests JOIN blobs USING (digest)"
        " WHERE repository = ? AND subject = ? ORDER BY digest",
        (_repository(connection, repository), str(subject)),
    )
    return tuple(
        Descriptor(
            media_type=media_type,
            digest=Digest.parse(digest),
            size=size,
            artifact_type=artifact_type,
            annotations=_ANNOTATIONS.decode(annotations),
        )
        for digest, media_type, size, artifact_type, annotations in rows
    )


def soil(connection: sqlite3.Connection, repository: str) -> None:
    """Note that a repository is no longer what its record in the store says."""
    connection.execute("INSERT INTO dirty VALUES (?, 1) ON CONFLICT DO UPDATE SET version = version + 1", (repository,))


def _repository(connection: sqlite3.Connection, name: str) -> int | None:
    row = connection.execute("SELECT id FROM repositories WHERE name = ?", (name,)).fetchone()
    return row[0] if row is not None else None


def _make_repository(connection: sqlite3.Connection, name: str) -> int:
    connection.execute("INSERT OR IGNORE INTO repositories (name) VALUES (?)", (name,))
    found = _repository(connection, name)
    assert found is not None
    return found


def _has_manifest(connection: sqlite3.Connection, repository_id: int | None, digest: Digest) -> bool:
    return (
        connection.execute(
            "SELECT 1 FROM manifests WHERE repository = ? AND digest = ?", (repository_id, str(digest))
        ).fetchone()
        is not None
    )


def _page(rows: Iterable[tuple[str]], limit: int) -> Page:
    names = tuple(name for (name,) in rows)
    return Page(names=names[:limit], more=len(names) > limit > 0)
