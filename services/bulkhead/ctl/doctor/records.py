"""The manager's records as they are on disk, read beside a living manager or without one, never written.

Records are taken as plain JSON, so that those of a version before or after this one can be read too.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bulkhead.errors import Internal
from bulkhead.model.instance import Instance

ALIVE = frozenset(("running", "paused"))
Record = Mapping[str, Any]
# For so long are files of a container on their way, even on a disk that stands still (nanoseconds).
_LEAVING = 600 * 1_000_000_000
_REMOVED = "SELECT actor_id FROM events WHERE type = 'container' AND action = 'destroy' AND time > ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Everything that is known of: containers and networks by id, volumes' names, layers by their directory.

    `under_way` are containers that the manager was acting upon, `leaving` those it has just removed: a living one takes
    their files away when nobody waits for it.
    """

    containers: Mapping[str, Record] = field(default_factory=dict)
    networks: Mapping[str, Record] = field(default_factory=dict)
    volumes: frozenset[str] = frozenset()
    layers: frozenset[str] = frozenset()
    under_way: frozenset[str] = frozenset()
    leaving: frozenset[str] = frozenset()

    def knows_short(self, short_id: str) -> bool:
        """Whether a container's id begins so."""
        return any(each.startswith(short_id) for each in self.containers)

    @property
    def alive(self) -> tuple[Record, ...]:
        """Containers that run, as far as is on record."""
        return tuple(each for each in self.containers.values() if each.get("phase") in ALIVE)

    @property
    def attachments(self) -> tuple[Record, ...]:
        """What networks gave to containers that run."""
        return tuple(one for each in self.containers.values() for one in each.get("attachments") or ())


def read(instance: Instance) -> Records:
    """The records of an installation; none when it never had a manager. Raises Internal when they are unreadable."""
    path = instance.data / "bulkhead.db"
    if not path.exists():
        return Records()
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as database:
            database.execute("BEGIN")  # one moment for all tables
            return _read(database)
    except (sqlite3.Error, ValueError) as error:
        raise Internal(f"cannot read {path}: {error}") from error


def _read(database: sqlite3.Connection) -> Records:
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}

    def column(table: str, query: str, *values: int) -> list[tuple[Any, ...]]:
        return database.execute(query, values).fetchall() if table in tables else []

    return Records(
        containers={
            key: json.loads(record) for key, record in column("containers", "SELECT id, record FROM containers")
        },
        networks={key: json.loads(record) for key, record in column("networks", "SELECT id, record FROM networks")},
        volumes=frozenset(name for (name,) in column("volumes", "SELECT name FROM volumes")),
        layers=frozenset(str(chain).rpartition(":")[2] for (chain,) in column("layers", "SELECT chain_id FROM layers")),
        under_way=frozenset(key for (key,) in column("intents", "SELECT container_id FROM intents")),
        leaving=frozenset(key for (key,) in column("events", _REMOVED, time.time_ns() - _LEAVING)),
    )
