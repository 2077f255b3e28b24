"""Containers, execs and events in SQLite: the manager's only truth beside what the kernel and the shims say.

Records are JSON of the domain types. Reads never touch the file: `index` mirrors what has been committed. An
unknown field of a record (written by a newer Bulkhead) is ignored, a missing one takes its default.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence, Set
from typing import Any

import msgspec

from bulkhead.errors import DataLoss
from bulkhead.manager.adapters.database import Database, Later
from bulkhead.manager.exec_index import ExecIndex
from bulkhead.manager.index import Index
from bulkhead.manager.ports import Change
from bulkhead.model.container import Container
from bulkhead.model.events import Event
from bulkhead.model.execs import Exec
from bulkhead.model.network import NetworkRecord
from bulkhead.model.replacing import replace
from bulkhead.model.volume import Volume

_CONTAINER = msgspec.json.Decoder(Container)
_EXEC = msgspec.json.Decoder(Exec)
_NETWORK = msgspec.json.Decoder(NetworkRecord)
_VOLUME = msgspec.json.Decoder(Volume)
_ATTRIBUTES = msgspec.json.Decoder(dict[str, str])
_encode = msgspec.json.Encoder().encode

Announce = Callable[[Sequence[Event]], None]


class SqliteRecords:
    """`bulkhead.manager.ports.Records`. Use `open`."""

    def __init__(self, database: Database, announce: Announce) -> None:
        self.index = Index()
        self.intents: dict[str, str] = {}
        self.networks: dict[str, NetworkRecord] = {}
        self.volumes: dict[str, Volume] = {}
        self.removed_volumes: tuple[str, ...] = ()
        self._database = database
        self._announce = announce
        self._execs = ExecIndex()
        # Of execs, what is in the index and not in the file yet.
        self._owed: dict[str, tuple[Later, tuple[Event, ...]]] = {}

    @staticmethod
    async def open(database: Database, announce: Announce) -> SqliteRecords:
        """Load every record. `announce` is called with committed events, in the order of the journal.

        Raises DataLoss when a record cannot be read.
        """
        records = SqliteRecords(database, announce)
        containers, execs, intents = await database.read(_load)
        for container in containers:
            records.index.put(container)
        records._execs = ExecIndex(execs)
        records.intents = intents
        records.networks = {each.id: each for each in await database.read(_load_networks)}
        records.volumes, records.removed_volumes = await database.read(_load_volumes)
        return records

    async def commit(
        self,
        change: Change,
        *,
        durable: bool = False,
        first: Callable[[], object] | None = None,
        then: Callable[[], object] | None = None,
    ) -> None:
        def committed(events: tuple[Event, ...]) -> None:
            self._mirror(change)
            self._announce(events)

        def work(connection: sqlite3.Connection) -> tuple[Event, ...]:
            return _apply(connection, change)

        await self._database.write(work, durable=durable, committed=committed, first=first, then=then)

    async def written(self) -> None:
        await self._database.read(lambda _: None)

    def exec(self, exec_id: str) -> Exec | None:
        return self._execs.get(exec_id)

    def execs(self, container_id: str = "") -> list[Exec]:
        return self._execs.of(container_id) if container_id else list(self._execs)

    def unended_execs(self, container_id: str) -> list[Exec]:
        return self._execs.unended(container_id)

    @property
    def exec_short_ids(self) -> Set[str]:
        return self._execs.short_ids

    @property
    def owed_execs(self) -> int:
        return self._database.owed

    async def save_exec(self, record: Exec, *events: Event) -> None:
        told = (*self._take_owed(record.id), *events)

        def committed(numbered: tuple[Event, ...]) -> None:
            if record.id not in self._owed:  # of which more is known by now
                self._execs.put(record)
            self._announce(numbered)

        await self._database.write(_exec_saver(record, told), durable=False, committed=committed)

    def save_exec_later(self, record: Exec, *events: Event, seconds: float) -> None:
        def committed(numbered: tuple[Event, ...]) -> None:
            if self._owed.get(record.id, (None, ()))[0] is later:
                del self._owed[record.id]
            self._announce(numbered)

        told = (*self._take_owed(record.id), *events)
        self._execs.put(record)
        later = self._database.write_later(_exec_saver(record, told), committed=committed, seconds=seconds)
        self._owed[record.id] = later, told

    def _take_owed(self, exec_id: str) -> tuple[Event, ...]:
        """What was to be told of an exec later, and is not: whoever writes it now tells it first."""
        later, events = self._owed.pop(exec_id, (None, ()))
        return events if later is not None and later.take_back() else ()

    async def drop_execs(self, exec_ids: Sequence[str]) -> None:
        known = [record for each in exec_ids if (record := self._execs.get(each))]
        rows = [(each.container_id, each.id) for each in known]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM execs WHERE container_id = ? AND id = ?", rows)

        def committed(_: None) -> None:
            self._drop_execs(exec_ids)

        await self._database.write(write, durable=False, committed=committed)

    async def meta(self, key: str) -> str | None:
        def query(connection: sqlite3.Connection) -> str | None:
            row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            return None if row is None else str(row[0])

        return await self._database.read(query)

    async def set_meta(self, key: str, value: str) -> None:
        def write(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

        await self._database.write(write)

    def _mirror(self, change: Change) -> None:
        for container in (change.create, change.update):
            if container is not None:
                self.index.put(container)
        if change.remove:
            self.index.drop(change.remove)
            self._drop_execs([each.id for each in self.execs(change.remove)])
        if change.network is not None:
            self.networks[change.network.id] = change.network
        self.networks.pop(change.drop_network, None)
        for volume in change.volumes:
            self.volumes[volume.name] = volume
        for name in change.drop_volumes:
            self.volumes.pop(name, None)

    def _drop_execs(self, exec_ids: Sequence[str]) -> None:
        self._execs.drop(exec_ids)
        for each in exec_ids:
            self._owed.pop(each, None)


def _exec_saver(record: Exec, events: Sequence[Event]) -> Callable[[sqlite3.Connection], tuple[Event, ...]]:
    def write(connection: sqlite3.Connection) -> tuple[Event, ...]:
        connection.execute(
            "INSERT OR REPLACE INTO execs VALUES (?, ?, ?)", (record.id, record.container_id, _encode(record))
        )
        return append_events(connection, events)

    return write


def _apply(connection: sqlite3.Connection, change: Change) -> tuple[Event, ...]:
    about = change.about
    if change.create is not None:
        about = change.create.id
        row = (change.create.id, change.create.name, _encode(change.create))
        connection.execute("INSERT INTO containers VALUES (?, ?, ?)", row)
    if change.update is not None:
        about = change.update.id
        connection.execute(
            "UPDATE containers SET name = ?, record = ? WHERE id = ?",
            (change.update.name, _encode(change.update), change.update.id),
        )
    if change.remove:
        about = change.remove
        connection.execute("DELETE FROM containers WHERE id = ?", (change.remove,))
    if change.done or change.remove:
        connection.execute("DELETE FROM intents WHERE container_id = ?", (about,))
    if change.done_of:
        connection.execute("DELETE FROM intents WHERE container_id = ? AND operation = ?", (about, change.done_of))
    if change.intent:
        connection.execute("INSERT OR REPLACE INTO intents VALUES (?, ?, x'')", (about, change.intent))
    _apply_networks(connection, change)
    _apply_volumes(connection, change)
    return append_events(connection, change.events)


def _apply_networks(connection: sqlite3.Connection, change: Change) -> None:
    if change.network is not None:
        row = (change.network.id, change.network.name, _encode(change.network))
        connection.execute("INSERT INTO networks VALUES (?, ?, ?)", row)
    if change.drop_network:
        connection.execute("DELETE FROM networks WHERE id = ?", (change.drop_network,))


def _apply_volumes(connection: sqlite3.Connection, change: Change) -> None:
    for volume in change.volumes:
        connection.execute("INSERT OR REPLACE INTO volumes VALUES (?, ?, 0)", (volume.name, _encode(volume)))
    for name in change.drop_volumes:
        connection.execute("UPDATE volumes SET removed = 1 WHERE name = ?", (name,))
    for name in change.forget_volumes:
        connection.execute("DELETE FROM volumes WHERE name = ? AND removed = 1", (name,))


def append_events(connection: sqlite3.Connection, events: Sequence[Event]) -> tuple[Event, ...]:
    """Write events into the journal; the same with their numbers."""
    return tuple(replace(event, sequence=_append(connection, event)) for event in events)


def _append(connection: sqlite3.Connection, event: Event) -> int:
    row = (event.time, event.type, event.action, event.actor_id, _encode(event.attributes))
    cursor = connection.execute(
        "INSERT INTO events (time, type, action, actor_id, attributes) VALUES (?, ?, ?, ?, ?)", row
    )
    return int(cursor.lastrowid or 0)


def event_of(row: Sequence[Any]) -> Event:
    """An event from a row (sequence, time, type, action, actor_id, attributes)."""
    sequence, time, kind, action, actor_id, attributes = row
    return Event(
        sequence=sequence,
        time=time,
        type=kind,
        action=action,
        actor_id=actor_id,
        attributes=_ATTRIBUTES.decode(attributes),
    )


def _load(connection: sqlite3.Connection) -> tuple[list[Container], list[Exec], dict[str, str]]:
    containers = [_read(_CONTAINER, row) for row in connection.execute("SELECT id, record FROM containers")]
    execs = [_read(_EXEC, row) for row in connection.execute("SELECT id, record FROM execs")]
    intents = dict(connection.execute("SELECT container_id, operation FROM intents"))
    return containers, sorted(execs, key=lambda each: each.created_at), intents


def _load_networks(connection: sqlite3.Connection) -> list[NetworkRecord]:
    return [_read(_NETWORK, row) for row in connection.execute("SELECT id, record FROM networks ORDER BY id")]


def _load_volumes(connection: sqlite3.Connection) -> tuple[dict[str, Volume], tuple[str, ...]]:
    rows = connection.execute("SELECT name, record, removed FROM volumes ORDER BY name").fetchall()
    volumes = {row[0]: _read(_VOLUME, row) for row in rows if not row[2]}
    return volumes, tuple(row[0] for row in rows if row[2])


def _read(decoder: msgspec.json.Decoder[Any], row: Sequence[Any]) -> Any:
    try:
        return decoder.decode(row[1])
    except msgspec.MsgspecError as error:
        raise DataLoss(f"cannot read record {row[0]}: {error}") from error
