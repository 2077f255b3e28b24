"""What one record costs does not grow with how many there are: pages written, rows looked at."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from pathlib import Path

import pytest

from bulkhead.manager.adapters.database import Database

RECORD = b"r" * 3000  # an ordinary container's


def _id(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def _pages(connection: sqlite3.Connection, statement: str, *parameters: object) -> int:
    """How many pages one transaction of this statement writes."""
    connection.execute("PRAGMA wal_checkpoint(RESTART)")
    with connection:
        connection.execute(statement, parameters)
    _, written, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(written)


@pytest.fixture
async def connection(tmp_path: Path) -> sqlite3.Connection:
    async with Database.open(tmp_path / "b.db"):
        pass
    return sqlite3.connect(tmp_path / "b.db")


async def test_a_containers_record_is_its_own_page_and_its_names(connection: sqlite3.Connection) -> None:
    with contextlib.closing(connection):
        with connection:
            rows = ((_id(n), f"name{n}", RECORD) for n in range(3000))
            connection.executemany("INSERT INTO containers VALUES (?, ?, ?)", rows)
        update = "UPDATE containers SET name = ?, record = ? WHERE id = ?"
        for n in (0, 1234, 2999):
            assert _pages(connection, update, f"name{n}", b"s" * len(RECORD), _id(n)) == 2


async def test_a_removed_containers_execs_are_found_by_it(connection: sqlite3.Connection) -> None:
    with contextlib.closing(connection):
        plan = connection.execute("EXPLAIN QUERY PLAN DELETE FROM execs WHERE container_id = ?", ("c",)).fetchall()
        assert [step[-1] for step in plan] == ["SEARCH execs USING PRIMARY KEY (container_id=?)"]
