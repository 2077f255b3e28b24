"""One SQLite file: a writer thread that commits in batches, readers that wait for nobody.

A write has reached the disk when it returns (WAL, synchronous=FULL); those that wait at the same time share
one commit. Readers see the last commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from bulkhead.content.blocking import Blocking
from bulkhead.errors import BulkheadError, Conflict, DataLoss, Internal, ResourceExhausted, Unavailable
from bulkhead.registry.adapters.schema import MIGRATIONS

P = ParamSpec("P")
T = TypeVar("T")
Work = Callable[Concatenate[sqlite3.Connection, P], T]

# Writes that one commit may carry.
BATCH = 128
# A file that grew to this in a burst is cut back by the next checkpoint, in bytes.
WAL_LIMIT = 16 << 20


@dataclass(slots=True)
class _Write:
    work: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    result: Any = None
    error: BaseException | None = None


class Database:
    """The registry's metadata file."""

    def __init__(self, path: Path, blocking: Blocking) -> None:
        self._path = path
        self._blocking = blocking
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Make the file or bring its schema up to date. Raises Conflict, DataLoss, ResourceExhausted."""
        try:
            connection = self._connect()
            self._migrate(connection)
        except sqlite3.Error as error:
            raise translated(error, f"open {self._path}") from error
        self._thread = threading.Thread(target=self._run, args=(connection,), name="registry-writes", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the writer after what it was asked; readers must have ended."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    async def write(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`work(connection, ...)` in a transaction of its own; its result, once it is on the disk.

        A cancelled caller is let go only when the outcome is settled.
        """
        if self._thread is None:
            raise Unavailable("cannot write metadata: the registry is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.put(_Write(lambda connection: work(connection, *args, **kwargs), future, loop))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
            if not future.cancelled():
                future.exception()
            raise

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`work(connection, ...)`, which only reads, on the last commit."""
        return await self._blocking.run(self._read, lambda connection: work(connection, *args, **kwargs))

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        try:
            if connection is None:
                connection = self._local.connection = self._connect()
                connection.execute("PRAGMA query_only=ON")
            connection.execute("BEGIN")
            try:
                return work(connection)
            finally:
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise translated(error, "read metadata") from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, cached_statements=256)
        self._connections.append(connection)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA journal_size_limit={WAL_LIMIT}")
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise Conflict(f"cannot open {self._path}: it was written by a newer Bulkhead (schema {version})")
        for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
            connection.executescript(f"BEGIN; {script}; PRAGMA user_version={number}; COMMIT")

    def _run(self, connection: sqlite3.Connection) -> None:
        while True:
            batch = self._next_batch()
            asked = [write for write in batch if write is not None]
            if asked:
                _commit(connection, asked)
            if len(asked) < len(batch):
                return

    def _next_batch(self) -> list[_Write | None]:
        batch = [self._queue.get()]
        with contextlib.suppress(queue.Empty):
            while batch[-1] is not None and len(batch) < BATCH:
                batch.append(self._queue.get_nowait())
        return batch


def _commit(connection: sqlite3.Connection, batch: list[_Write]) -> None:
    try:
        connection.execute("BEGIN IMMEDIATE")
        for write in batch:
            _perform(connection, write)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        for write in batch:
            write.error = write.error or translated(error, "write metadata")
    for write in batch:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            write.loop.call_soon_threadsafe(_answer, write)


def _perform(connection: sqlite3.Connection, write: _Write) -> None:
    connection.execute("SAVEPOINT work")
    try:
        write.result = write.work(connection)
    except sqlite3.OperationalError:
        raise  # a full disk and its like: the whole batch fails, and each caller is told
    except Exception as error:
        # Whatever it is, it belongs to the caller, not to the thread.
        connection.execute("ROLLBACK TO work")
        write.error = translated(error, "write metadata") if isinstance(error, sqlite3.Error) else error
    connection.execute("RELEASE work")


def _answer(write: _Write) -> None:
    if write.future.done():
        return
    if write.error is not None:
        write.future.set_exception(write.error)
    else:
        write.future.set_result(write.result)


def translated(error: sqlite3.Error, action: str) -> BulkheadError:
    """The error of our vocabulary for one of SQLite's."""
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL" or "disk is full" in str(error):
        return ResourceExhausted(f"cannot {action}: no space left on device")
    if name in ("SQLITE_CORRUPT", "SQLITE_NOTADB"):
        return DataLoss(f"cannot {action}: {error}; move the file away, and it is made again from the store")
    return Internal(f"cannot {action}: {error}")
