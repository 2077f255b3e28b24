"""What the cache knows beside the bytes: where tags were, what is whose, what was asked for when.

    tags   (repository, tag) -> digest, when the upstream last said so
    links  (repository, digest): the upstream said that this repository has it; size, media type of manifests
    uses   digest -> when it was last asked for

Times are seconds since 1970. Losing it costs requests, nothing else: a damaged file is begun anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bulkhead.content.durable import disk_errors, make_directories
from bulkhead.errors import Internal, ResourceExhausted
from bulkhead.model.digest import Digest

VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS tags (
    repository TEXT, tag TEXT, digest TEXT NOT NULL, checked REAL NOT NULL, PRIMARY KEY (repository, tag)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS links (
    repository TEXT, digest TEXT, size INTEGER NOT NULL, media_type TEXT NOT NULL, PRIMARY KEY (repository, digest)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS uses (digest TEXT PRIMARY KEY, used REAL NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagged:
    """Where a tag was, and when that was so."""

    digest: Digest
    checked: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What a repository has under a digest; a blob has no media type."""

    size: int
    media_type: str


class Index:
    """The cache's database. Every method blocks, briefly; one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection

    def open(self) -> None:
        """Open, or make; raises Internal, ResourceExhausted."""
        with disk_errors(f"open cache {self._path}"):
            make_directories(self._path.parent)
            try:
                self._database = self._opened()
            except sqlite3.DatabaseError:
                for suffix in ("", "-wal", "-shm"):
                    self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
                try:
                    self._database = self._opened()
                except sqlite3.Error as error:
                    raise Internal(f"cannot open cache {self._path}: {error}") from error

    def close(self) -> None:
        self._database.close()

    def tag(self, repository: str, tag: str) -> Tagged | None:
        row = self._one("SELECT digest, checked FROM tags WHERE repository = ? AND tag = ?", repository, tag)
        return Tagged(digest=Digest.parse(row[0]), checked=row[1]) if row is not None else None

    def point(self, repository: str, tag: str, digest: Digest, checked: float) -> None:
        """The upstream says that a tag is here."""
        self._run("INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?)", repository, tag, str(digest), checked)

    def unpoint(self, repository: str, tag: str) -> None:
        """The upstream says that there is no such tag."""
        self._run("DELETE FROM tags WHERE repository = ? AND tag = ?", repository, tag)

    def link(self, repository: str, digest: Digest) -> Link | None:
        query = "SELECT size, media_type FROM links WHERE repository = ? AND digest = ?"
        row = self._one(query, repository, str(digest))
        return Link(size=row[0], media_type=row[1]) if row is not None else None

    def add_link(self, repository: str, digest: Digest, link: Link) -> None:
        """The upstream says that a repository has something."""
        self._run(
            "INSERT OR REPLACE INTO links VALUES (?, ?, ?, ?)", repository, str(digest), link.size, link.media_type
        )

    def use(self, digest: Digest, now: float) -> None:
        """Something was asked for."""
        self._run("INSERT OR REPLACE INTO uses VALUES (?, ?)", str(digest), now)

    def uses(self) -> dict[str, float]:
        """Digest -> when it was last asked for."""
        with self._errors():
            return dict(self._database.execute("SELECT digest, used FROM uses"))

    def forget(self, digests: Iterable[Digest]) -> None:
        """The bytes are gone; what is linked to them would be asked for again anyway."""
        names = [(str(digest),) for digest in digests]
        with self._errors(), self._database:
            for table in ("uses", "links", "tags"):
                self._database.executemany(f"DELETE FROM {table} WHERE digest = ?", names)

    def _opened(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, check_same_thread=False)
        try:
            # What is lost in a power cut is asked for again.
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            if database.execute("PRAGMA user_version").fetchone()[0] not in (0, VERSION):
                raise sqlite3.DatabaseError("another version's")
            database.executescript(_SCHEMA)
            database.execute(f"PRAGMA user_version = {VERSION}")
        except BaseException:
            database.close()
            raise
        return database

    def _one(self, query: str, *values: object) -> tuple[Any, ...] | None:
        with self._errors():
            row: tuple[Any, ...] | None = self._database.execute(query, values).fetchone()
            return row

    def _run(self, query: str, *values: object) -> None:
        with self._errors(), self._database:
            self._database.execute(query, values)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            kind = ResourceExhausted if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL" else Internal
            raise kind(f"cannot use cache {self._path}: {error}") from error
