"""The collector's transactions: candidates are sought without a lock, and judged again where they are removed.

Bytes go only by way of a tombstone, and a tombstone is made only in a transaction that saw neither a link nor
a manifest of the blob; a push that answered has made one of these, or renewed a lease, in a transaction before
(registry.md section 5.3). So the single writer's order decides every race between a push and the collector.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from bulkhead.registry.adapters.catalogue import bury, soil

# Rows that one transaction may remove: pushes wait no longer than that takes.
BATCH = 500

_UNNEEDED_LINK = (
    "touched < ? AND NOT EXISTS (SELECT 1 FROM edges WHERE edges.repository = links.repository"
    " AND edges.child = links.digest AND edges.kind = 'blob')"
)
_UNNEEDED_BLOB = (
    "touched < ? AND NOT EXISTS (SELECT 1 FROM links WHERE links.digest = blobs.digest)"
    " AND NOT EXISTS (SELECT 1 FROM manifests WHERE manifests.digest = blobs.digest)"
)
_UNTAGGED = (
    "pushed < ? AND NOT EXISTS (SELECT 1 FROM tags WHERE tags.repository = manifests.repository"
    " AND tags.digest = manifests.digest)"
    " AND NOT EXISTS (SELECT 1 FROM edges WHERE edges.repository = manifests.repository"
    " AND edges.child = manifests.digest AND edges.kind = 'manifest')"
    " AND NOT EXISTS (SELECT 1 FROM manifests AS subject WHERE subject.repository = manifests.repository"
    " AND subject.digest = manifests.subject)"
)


def links(connection: sqlite3.Connection, horizon: float) -> list[tuple[int, str]]:
    """Links that no manifest needs and nobody asked for since `horizon`."""
    return connection.execute(f"SELECT repository, digest FROM links WHERE {_UNNEEDED_LINK}", (horizon,)).fetchall()


def remove_links(connection: sqlite3.Connection, found: Sequence[tuple[int, str]], horizon: float) -> int:
    """Remove those of them that are still so; how many."""
    removed = 0
    for repository, digest in found:
        removed += connection.execute(
            f"DELETE FROM links WHERE repository = ? AND digest = ? AND {_UNNEEDED_LINK}", (repository, digest, horizon)
        ).rowcount
    return removed


def untagged(connection: sqlite3.Connection, horizon: float) -> list[tuple[int, str, str]]:
    """Manifests that no tag, no index and no subject leads to: (repository, its name, digest)."""
    return connection.execute(
        "SELECT repository, name, digest FROM manifests JOIN repositories ON repositories.id = manifests.repository"
        f" WHERE {_UNTAGGED}",
        (horizon,),
    ).fetchall()


def remove_untagged(connection: sqlite3.Connection, found: Sequence[tuple[int, str, str]], horizon: float) -> int:
    """Remove those of them that are still so; how many."""
    removed = 0
    for repository, name, digest in found:
        done = connection.execute(
            f"DELETE FROM manifests WHERE repository = ? AND digest = ? AND {_UNTAGGED}", (repository, digest, horizon)
        )
        if done.rowcount:
            soil(connection, name)
            removed += 1
    return removed


def blobs(connection: sqlite3.Connection, horizon: float) -> list[str]:
    """Blobs that no repository has and nobody pushed since `horizon`."""
    rows = connection.execute(f"SELECT digest FROM blobs WHERE {_UNNEEDED_BLOB}", (horizon,))
    return [digest for (digest,) in rows]


def condemn(connection: sqlite3.Connection, found: Sequence[str], horizon: float, not_before: float) -> int:
    """Forget those of them that are still so, and have their objects deleted from `not_before` on; how many."""
    condemned = 0
    for digest in found:
        row = connection.execute(
            f"DELETE FROM blobs WHERE digest = ? AND {_UNNEEDED_BLOB} RETURNING key, size", (digest, horizon)
        ).fetchone()
        if row is not None:
            bury(connection, row[0], row[1], not_before)
            condemned += 1
    return condemned


def due(connection: sqlite3.Connection, now: float) -> list[tuple[str, int]]:
    """(key, size) of objects whose time has come."""
    return connection.execute("SELECT key, size FROM tombstones WHERE not_before <= ?", (now,)).fetchall()


def forget(connection: sqlite3.Connection, keys: Sequence[str]) -> None:
    """The objects are gone: so are their tombstones."""
    connection.executemany("DELETE FROM tombstones WHERE key = ?", [(key,) for key in keys])


def drop_empty_repositories(connection: sqlite3.Connection) -> int:
    """Repositories with neither manifest nor link leave the catalogue."""
    rows = connection.execute(
        "DELETE FROM repositories WHERE NOT EXISTS (SELECT 1 FROM links WHERE repository = repositories.id)"
        " AND NOT EXISTS (SELECT 1 FROM manifests WHERE repository = repositories.id) RETURNING name"
    ).fetchall()
    for (name,) in rows:
        soil(connection, name)
    return len(rows)


def known(connection: sqlite3.Connection, keys: Sequence[str]) -> set[str]:
    """Those of `keys` that are some blob's bytes, or wait for their deletion."""
    marks = ",".join("?" * len(keys))
    rows = connection.execute(
        f"SELECT key FROM blobs WHERE key IN ({marks}) UNION SELECT key FROM tombstones WHERE key IN ({marks})",
        (*keys, *keys),
    )
    return {key for (key,) in rows}
