"""The journal's table: read from a position, drop what is too old."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from bulkhead.manager.adapters.database import Database
from bulkhead.manager.adapters.records import append_events, event_of
from bulkhead.manager.eventbus import Announce
from bulkhead.model.events import Event

_COLUMNS = "sequence, time, type, action, actor_id, attributes"


class SqliteJournalStore:
    """`bulkhead.manager.eventbus.JournalStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def last_sequence(self) -> int:
        def query(connection: sqlite3.Connection) -> int:
            row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
            return 0 if row is None else int(row[0])

        return await self._database.read(query)

    async def after(self, sequence: int, limit: int) -> list[Event]:
        def query(connection: sqlite3.Connection) -> list[Event]:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?", (sequence, limit)
            )
            return [event_of(row) for row in rows]

        return await self._database.read(query)

    async def before_time(self, time: int) -> int:
        def query(connection: sqlite3.Connection) -> int:
            # Some are told late: not all behind the last of an earlier time are of a later one.
            first = "SELECT min(sequence) - 1 FROM events WHERE time >= ?"
            row = connection.execute(f"SELECT coalesce(({first}), max(sequence), 0) FROM events", (time,)).fetchone()
            return int(row[0])

        return await self._database.read(query)

    async def append(self, events: Sequence[Event], announce: Announce) -> None:
        await self._database.write(
            lambda connection: append_events(connection, events), durable=False, committed=announce
        )

    async def trim(self, keep: int, oldest: int) -> None:
        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                "DELETE FROM events WHERE time < ? OR sequence <= (SELECT max(sequence) FROM events) - ?",
                (oldest, keep),
            )

        await self._database.write(write, durable=False)
