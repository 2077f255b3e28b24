"""Records of every release become this one's; those of a later one are left as they are.

`releases/<commit>.sql` is what that release's own code has written, as text: containers that run, have ended, were
only created, and share a network; an exec, an image with two names; from 40a00c9 on a volume and a network too.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from bulkhead.errors import Conflict, Internal
from bulkhead.manager.adapters import database as module
from bulkhead.manager.adapters.database import Database
from bulkhead.manager.adapters.records import SqliteRecords
from bulkhead.manager.adapters.schema import MIGRATIONS
from bulkhead.model.lifecycle import Phase

RELEASES = sorted((Path(__file__).parent / "releases").glob("*.sql"))


def written_by(release: Path, path: Path) -> Path:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(release.read_text())
    return path


def shape(path: Path) -> dict[str, str]:
    """Each table and index as it was defined, but for white space."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {name: re.sub(r"\s+", " ", sql) for name, sql in rows}


def files(directory: Path) -> dict[str, bytes]:
    """SQLite's shared memory (-shm) is no part of the records."""
    return {each.name: each.read_bytes() for each in directory.iterdir() if not each.name.endswith(("-shm", ".lock"))}


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.stem)
async def test_a_releases_records_are_this_ones(release: Path, tmp_path: Path) -> None:
    path = written_by(release, tmp_path / "b.db")
    async with Database.open(path) as database:
        records = await SqliteRecords.open(database, lambda events: None)
        phases = {each.name: each.phase for each in records.index if each.name != "sided"}
        assert phases == {
            "running": Phase.RUNNING,
            "exited": Phase.EXITED,
            "created": Phase.CREATED,
            "joined": Phase.CREATED,
        }
        named = {each.name: each for each in records.index}
        running, joined, exited = named["running"], named["joined"], named["exited"]
        assert [(each.network_name, each.ports[0].container_port) for each in running.endpoints] == [("bridge", 80)]
        assert [each.address for each in running.attachments] == [each.address for each in running.endpoints]
        assert (joined.endpoints, joined.attachments) == ((), ())
        assert (exited.exit_code, exited.spec.labels, exited.spec.resources.memory) == (3, {"x": "y"}, 64 << 20)
        assert [each.exit_code for each in records.execs(running.id)] == [0]

        def check(connection: sqlite3.Connection) -> list[object]:
            problems = connection.execute("PRAGMA foreign_key_check").fetchall()
            return [connection.execute("PRAGMA integrity_check").fetchone()[0], *problems]

        assert await database.read(check) == ["ok"]
    async with Database.open(tmp_path / "fresh.db"):
        pass
    assert shape(path) == shape(tmp_path / "fresh.db")


async def test_a_migrations_log_does_not_stay(tmp_path: Path) -> None:
    path = written_by(RELEASES[-1], tmp_path / "b.db")
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        rows = ((f"{n:064}", str(n), b"{}" + b" " * 6000) for n in range(1500))
        connection.executemany("INSERT INTO containers VALUES (?, ?, ?)", rows)
    async with Database.open(path):
        assert (tmp_path / "b.db-wal").stat().st_size <= 6 << 20  # what is kept for a full disk


async def test_a_disk_with_room_for_the_migration_alone_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log cannot be emptied into the file, and stays."""
    path = written_by(RELEASES[-1], tmp_path / "b.db")
    monkeypatch.setattr(module, "_Counting", _Full)
    async with Database.open(path) as database:
        records = await SqliteRecords.open(database, lambda events: None)
        assert "running" in {each.name for each in records.index}


class _Full(module._Counting):
    """Of a disk that takes no more."""

    def execute(self, statement: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if "wal_checkpoint" in statement:
            raise sqlite3.OperationalError("database or disk is full")
        return super().execute(statement, parameters)


async def test_records_of_a_later_release_are_left_as_they_are(tmp_path: Path) -> None:
    """Also those that a killed manager left in its write-ahead log."""
    written = tmp_path / "written"
    written.mkdir()
    with contextlib.closing(sqlite3.connect(written / "b.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE future (x)")
        connection.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
        connection.execute("INSERT INTO future VALUES (1)")
        connection.commit()
        left = tmp_path / "left"
        left.mkdir()
        for name, content in files(written).items():
            (left / name).write_bytes(content)
    before = files(left)
    assert before["b.db-wal"]
    with pytest.raises(Conflict, match=r"written by a newer Bulkhead \(schema \d+, this one knows \d+\); start that"):
        async with Database.open(left / "b.db"):
            pass
    assert files(left) == before


async def test_a_migration_that_fails_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written_by(RELEASES[0], tmp_path / "b.db")
    before = shape(path)
    monkeypatch.setattr(module, "MIGRATIONS", [MIGRATIONS[0], "CREATE TABLE half (x); SELECT no_such_function()"])
    with pytest.raises(Internal, match="no_such_function"):
        async with Database.open(path):
            pass
    assert shape(path) == before
    monkeypatch.undo()
    async with Database.open(path):
        pass


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(Internal, match=r"cannot open .*b\.db: file is not a database"):
        async with Database.open(tmp_path / "b.db"):
            pass
