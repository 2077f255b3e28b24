"""One SQLite file, one writer at a time: transactions in the order they were asked for.

    async with Database.open(path) as database:
        await database.write(lambda connection: connection.execute(...), durable=True)

A durable write has reached the disk when it returns (synchronous=FULL); any other survives the death of every
process but not of the machine (NORMAL). Both are in the write-ahead log, in order: a durable write makes all
earlier ones durable too. Waiting writes of the same kind share one commit. The file is locked against a second
manager for as long as it is open.

What may be late (`write_later`) waits for the next write, of whatever kind, and goes with it; before it, and in order.

Who writes is a thread of its own, or one that has blocking work to do before or after the write anyway: each way to
another thread and back costs as much as the transaction. Whoever has the turn commits for all who wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from bulkhead import failpoints
from bulkhead.counting import counts
from bulkhead.errors import BulkheadError, Conflict, Internal, ResourceExhausted
from bulkhead.linux.threads import Hands
from bulkhead.manager.adapters.reserve import Reserve
from bulkhead.manager.adapters.schema import MIGRATIONS
from bulkhead.model.refusals import reason

log = structlog.get_logger()

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
# So many writes share a commit at most; so many threads do what is to be done before and after a write.
_BATCH, _HANDS = 64, 32
# What it takes the loop to answer whoever waits for a write: what follows that is not in its way.
_ANSWER_SECONDS = 0.0005
# Who stops us does not wait for a disk that stands still.
_CLOSE_SECONDS = 3.0


@dataclass(slots=True, eq=False)
class _Write:
    work: Work[Any]
    durable: bool
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    committed: Callable[[Any], None] | None = None
    result: Any = None
    error: BaseException | None = None
    ended: bool = False


class Later:
    """A write that may still be taken back."""

    def __init__(self, write: _Write, late: dict[_Write, asyncio.TimerHandle]) -> None:
        self._write = write
        self._late = late

    def take_back(self) -> bool:
        """Whether it is not done, and never will be, unless it is asked for again: it still waits, or has failed."""
        timer = self._late.pop(self._write, None)
        if timer is None:
            return self._write.error is not None
        timer.cancel()
        self._write.future.cancel()
        return True


@dataclass(slots=True)
class Database:
    """The manager's records. Use `open`."""

    _connection: sqlite3.Connection
    _reserve: Reserve
    _waiting: deque[_Write] = field(default_factory=deque)
    # What waits for another write, and when it waits no more. The loop's alone.
    _late: dict[_Write, asyncio.TimerHandle] = field(default_factory=dict)
    # Of what may be late, how much is neither in the file, nor refused, nor taken back.
    owed: int = 0
    _turn: threading.Lock = field(default_factory=threading.Lock)
    # Rung for the writer's own thread; False ends it.
    _bell: queue.SimpleQueue[bool] = field(default_factory=queue.SimpleQueue)
    _hands: Hands = field(default_factory=lambda: Hands(_HANDS, "records"))
    _synchronous: str = ""

    @staticmethod
    @contextlib.asynccontextmanager
    async def open(path: Path) -> AsyncIterator[Database]:
        """Open or make the file at `path`; Conflict when another manager has it."""
        with _locked(path):
            reserve = Reserve(path)
            reserve.take_back()
            database = Database(_connect(path), reserve)
            reserve.fill(database._connection)
            writer = threading.Thread(target=database._run, name="records", daemon=True)
            writer.start()
            try:
                yield database
            finally:
                await asyncio.to_thread(database._hands.close, _CLOSE_SECONDS)
                database._hurry()
                database._bell.put(False)
                await asyncio.to_thread(writer.join)
                reserve.put_aside()
                database._connection.close()
                reserve.close()

    async def write(
        self,
        work: Work[T],
        *,
        durable: bool = True,
        committed: Callable[[T], None] | None = None,
        first: Callable[[], object] | None = None,
        then: Callable[[], object] | None = None,
    ) -> T:
        """Run `work` in a transaction; its result once committed. An error in `work` undoes `work` alone.

        `committed` is called in the loop with the result, in the order of the commits, even when the caller no
        longer waits: what mirrors the file is told there.

        `first` and `then` may block: they are done in the thread that writes. Where `first` raises nothing is written;
        for `then`, which must not raise, and is done only after a write that succeeded, nobody waits.
        """
        loop = asyncio.get_running_loop()
        write = _Write(work, durable, loop, loop.create_future(), committed)
        hurried = self._hurry()
        if first is None and then is None:
            self._waiting.append(write)
            self._bell.put(True)
        else:
            if hurried:
                # What is done first may take its time.
                self._bell.put(True)
            self._hands.do(partial(copy_context().run, self._by_hand, write, first, then))
        # The commit happens whether or not the caller still waits: nobody but it has this future.
        result: T = await write.future
        return result

    def write_later(self, work: Work[T], *, committed: Callable[[T], None], seconds: float) -> Later:
        """As `write`, within `seconds`: with the next write or read that is asked for, and before that, or alone.

        Not durable by itself. Nobody waits: why it failed is logged.
        """
        loop = asyncio.get_running_loop()
        write = _Write(work, False, loop, loop.create_future(), committed)
        self.owed += 1
        write.future.add_done_callback(self._is_settled)
        self._late[write] = loop.call_later(seconds, self._ring_for, write)
        return Later(write, self._late)

    def _is_settled(self, future: asyncio.Future[Any]) -> None:
        self.owed -= 1
        error = future.exception() if not future.cancelled() else None
        if error is not None:
            log.error("cannot write what may be late", reason=str(error))

    def _ring_for(self, write: _Write) -> None:
        """It has waited for others for as long as it may."""
        if write in self._late:
            self._hurry()
            self._bell.put(True)

    def _hurry(self) -> bool:
        """What may be late is written before anything that is asked for from now on. Whether there was any."""
        late = dict(self._late)
        self._late.clear()
        for write, timer in late.items():
            timer.cancel()
            self._waiting.append(write)
        return bool(late)

    async def read(self, work: Work[T]) -> T:
        """Run `work`, which only reads, after all writes asked for before."""
        return await self.write(work, durable=False)

    def _run(self) -> None:
        while self._bell.get():
            self._commit_waiting()
        self._commit_waiting()

    def _by_hand(self, write: _Write, first: Callable[[], object] | None, then: Callable[[], object] | None) -> None:
        try:
            if first is not None:
                first()
        except Exception as error:  # whatever it is, it belongs to the caller
            write.error = error
            _tell([write])
            return
        self._waiting.append(write)
        self._commit_waiting(write)
        if then is not None and write.error is None:
            # The loop has been woken, on this very core as a rule, and wants the interpreter that we hold.
            time.sleep(_ANSWER_SECONDS)
            _do(then)

    def _commit_waiting(self, until: _Write | None = None) -> None:
        """Write all that wait; or, until one of those that do is written, by whomever."""
        while self._waiting if until is None else not until.ended:
            with self._turn:
                batch: list[_Write] = []
                with contextlib.suppress(IndexError):
                    while len(batch) < _BATCH:
                        batch.append(self._waiting.popleft())
                if batch:
                    self._commit(batch)

    def _commit(self, batch: list[_Write]) -> None:
        durable = any(write.durable for write in batch)
        counts["sql transactions"] += len(batch)
        self._reserve.read_ahead()
        try:
            self._synchronize("FULL" if durable else "NORMAL")
            self._around("BEGIN IMMEDIATE")
            for write in batch:
                self._perform(write, alone=len(batch) == 1)
            failpoints.hit("manager.records.written", _refused)
            self._around("COMMIT")
            failpoints.hit("manager.records.committed")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._around("ROLLBACK")
            for write in batch:
                write.error = write.error or _translated(error)
        for write in batch:
            write.ended = True
        _tell(batch)

    def _synchronize(self, how: str) -> None:
        """As the connection has it, from its last transaction on."""
        if self._synchronous != how:
            self._around(f"PRAGMA synchronous={how}")
            self._synchronous = how

    def _around(self, statement: str) -> None:
        """Not counted: who shares a commit with whom depends on what else goes on."""
        self._connection.cursor().execute(statement)

    def _perform(self, write: _Write, *, alone: bool) -> None:
        """What fails undoes no other's work. One that is `alone` needs no savepoint for that."""
        if not alone:
            self._around("SAVEPOINT work")
        try:
            write.result = write.work(self._connection)
        except sqlite3.OperationalError:
            raise
        except Exception as error:  # whatever it is, it belongs to the caller, not to the writer thread
            self._undo(alone=alone)
            write.error = _translated(error) if isinstance(error, sqlite3.Error) else error
        if not alone:
            self._around("RELEASE work")

    def _undo(self, *, alone: bool) -> None:
        if not alone:
            self._around("ROLLBACK TO work")
            return
        self._around("ROLLBACK")
        self._around("BEGIN IMMEDIATE")


def _tell(batch: list[_Write]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[_Write]] = {}
    for write in batch:
        by_loop.setdefault(write.loop, []).append(write)
    for loop, writes in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_answer, writes)


def _do(then: Callable[[], object]) -> None:
    try:
        then()
    except Exception:  # nobody waits for it
        log.exception("what follows a write failed")


def _answer(writes: list[_Write]) -> None:
    for write in writes:
        if write.error is None and write.committed is not None:
            write.committed(write.result)
        if write.future.done():
            continue
        if write.error is not None:
            write.future.set_exception(write.error)
        else:
            write.future.set_result(write.result)


def _refused(error: OSError) -> sqlite3.Error:
    """What SQLite says when the kernel says `error`."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    refused = sqlite3.OperationalError("database or disk is full" if full else "disk I/O error")
    refused.sqlite_errorname = "SQLITE_FULL" if full else "SQLITE_IOERR"
    return refused


def _translated(error: sqlite3.Error) -> BulkheadError:
    if error.sqlite_errorname == "SQLITE_FULL" or "disk is full" in str(error):
        full = reason(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        return ResourceExhausted(f"cannot write records: {full} ({error})")
    if isinstance(error, sqlite3.IntegrityError):
        return Conflict(f"cannot write records: {error}")
    if error.sqlite_errorname.startswith("SQLITE_IOERR"):
        return Internal(f"cannot write records: {error}: {reason(OSError(errno.EIO, os.strerror(errno.EIO)))}")
    return Internal(f"cannot write records: {error}")


class _Counting(sqlite3.Connection):
    """A connection that counts the statements of what is written or read."""

    def execute(self, statement: str, parameters: Any = (), /) -> sqlite3.Cursor:
        counts["sql statements"] += 1
        return super().execute(statement, parameters)

    def executemany(self, statement: str, parameters: Any, /) -> sqlite3.Cursor:
        counts["sql statements"] += 1
        return super().executemany(statement, parameters)


def _connect(path: Path) -> sqlite3.Connection:
    """The file at `path` in this release's schema. Raises Conflict for one of a newer, Internal for one that is broken.

    What is refused stays as it is to the byte; a migration that fails is undone.
    """
    try:
        version = _version(path)
        if version > len(MIGRATIONS):
            raise Conflict(
                f"cannot open {path}: it was written by a newer Bulkhead (schema {version}, this one knows "
                f"{len(MIGRATIONS)}); start that one again, records do not go back"
            )
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=_Counting)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA foreign_keys=ON")
            for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
                connection.executescript(f"BEGIN; {script}; PRAGMA user_version={number}; COMMIT")
            if version < len(MIGRATIONS):
                # The log of a migration is as large as what it moved, and would stay so. On a full disk it does.
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise Internal(f"cannot open {path}: {error}") from error
    return connection


def _version(path: Path) -> int:
    """The schema of a file, 0 without one. Read only: the last one who could write would tidy up as it closes."""
    if not path.exists():
        return 0
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as reader:
        version: int = reader.execute("PRAGMA user_version").fetchone()[0]
    return version


@contextlib.contextmanager
def _locked(path: Path) -> Any:
    """Hold the data directory: flock(2) on a file beside the database, freed by the kernel when we die."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"cannot use {path.parent}: another manager is running on this data directory") from None
        yield
    finally:
        os.close(descriptor)
