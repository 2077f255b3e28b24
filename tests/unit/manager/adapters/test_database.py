"""Records are written in order, together, and by one manager only."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import mmap
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bulkhead import failpoints
from bulkhead.errors import BulkheadError, Conflict, Internal, ResourceExhausted
from bulkhead.manager.adapters.database import Database


def put(key: str, value: str):  # type: ignore[no-untyped-def]
    return lambda connection: connection.execute("INSERT INTO meta VALUES (?, ?)", (key, value))


async def test_a_write_is_there_after_the_file_is_opened_again(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "b.db") as database:
        await database.write(put("a", "1"))
    async with Database.open(tmp_path / "b.db") as database:
        assert await database.read(lambda c: c.execute("SELECT value FROM meta").fetchall()) == [("1",)]


async def test_a_failing_write_undoes_itself_and_no_other_of_its_batch(tmp_path: Path) -> None:
    """Writes share commits: one caller's mistake must not cost another caller its record."""

    def half_done(connection: sqlite3.Connection) -> None:
        put("half", "1")(connection)
        raise AttributeError("a mistake in the caller's code")

    async with Database.open(tmp_path / "b.db") as database:
        results = await asyncio.gather(
            database.write(put("first", "1")),
            database.write(half_done),
            database.write(put("first", "again")),
            database.write(put("last", "1")),
            return_exceptions=True,
        )
        assert [type(each) for each in results[1:3]] == [AttributeError, Conflict]
        keys = await database.read(lambda c: c.execute("SELECT key FROM meta ORDER BY key").fetchall())
        assert keys == [("first",), ("last",)]


async def test_a_second_manager_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "b.db") as database:
        with pytest.raises(Conflict, match="another manager is running on this data directory"):
            async with Database.open(tmp_path / "b.db"):
                pass
        await database.write(put("still", "here"))
    async with Database.open(tmp_path / "b.db"):
        pass


async def test_a_write_whose_caller_was_cancelled_is_committed(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "b.db") as database:
        task = asyncio.ensure_future(database.write(put("a", "1")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await database.read(lambda c: c.execute("SELECT key FROM meta").fetchall()) == [("a",)]


async def test_what_may_be_late_goes_before_what_is_asked_for_next(tmp_path: Path) -> None:
    told: list[str] = []
    async with Database.open(tmp_path / "b.db") as database:
        for number in range(3):
            database.write_later(put(f"late {number}", "1"), committed=lambda _, n=number: told.append(n), seconds=600)  # type: ignore[misc]
        await database.write(put("next", "1"), committed=lambda _: told.append("next"))
        assert told == [0, 1, 2, "next"]


async def test_what_may_be_late_is_written_in_time_though_nobody_writes(tmp_path: Path) -> None:
    written = asyncio.Event()
    async with Database.open(tmp_path / "b.db") as database:
        database.write_later(put("late", "1"), committed=lambda _: written.set(), seconds=0.01)
        await asyncio.wait_for(written.wait(), 10)


async def test_what_may_be_late_does_not_wait_for_what_blocks_before_a_write(tmp_path: Path) -> None:
    written, gate = asyncio.Event(), threading.Event()
    async with Database.open(tmp_path / "b.db") as database:
        database.write_later(put("late", "1"), committed=lambda _: written.set(), seconds=600)
        blocked = asyncio.ensure_future(database.write(put("a", "1"), first=lambda: gate.wait(60)))
        try:
            await asyncio.wait_for(written.wait(), 20)
            assert not blocked.done()
        finally:
            gate.set()
        await blocked


async def test_what_may_be_late_is_written_before_the_file_is_closed(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "b.db") as database:
        database.write_later(put("late", "1"), committed=lambda _: None, seconds=600)
    async with Database.open(tmp_path / "b.db") as database:
        assert await database.read(lambda c: c.execute("SELECT key FROM meta").fetchall()) == [("late",)]


async def test_what_may_be_late_can_be_taken_back_until_it_is_written(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "b.db") as database:
        done = database.write_later(put("done", "1"), committed=lambda _: None, seconds=600)
        await database.write(put("a", "1"))
        assert not done.take_back()
        back = database.write_later(put("back", "1"), committed=lambda _: None, seconds=600)
        assert back.take_back()
        fails = database.write_later(put("a", "again"), committed=lambda _: None, seconds=600)
        keys = await database.read(lambda c: c.execute("SELECT key FROM meta ORDER BY key").fetchall())
        assert keys == [("a",), ("done",)]
        assert fails.take_back(), "the file did not take it: who wants it written writes it himself"


async def test_what_is_to_be_done_before_and_after_a_write_is_done_in_its_thread(tmp_path: Path) -> None:
    done: list[tuple[str, int]] = []

    def note(what: str) -> None:
        done.append((what, threading.get_ident()))

    async with Database.open(tmp_path / "b.db") as database:

        def work(connection: sqlite3.Connection) -> None:
            note("work")
            put("a", "1")(connection)

        await database.write(work, first=lambda: note("first"), then=lambda: note("then"))
    # Also what nobody waits for is done when the file is closed.
    assert [what for what, _ in done] == ["first", "work", "then"]
    assert len({thread for _, thread in done}) == 1
    assert done[0][1] != threading.get_ident()


@pytest.mark.parametrize("fails", ["first", "work"])
async def test_nothing_follows_a_write_that_fails(tmp_path: Path, fails: str) -> None:
    done: list[str] = []

    def fail(*_: object) -> None:
        raise AttributeError("a mistake in the caller's code")

    first = fail if fails == "first" else lambda: done.append("first")
    work = fail if fails == "work" else put("a", "1")
    async with Database.open(tmp_path / "b.db") as database:
        with pytest.raises(AttributeError):
            await database.write(work, first=first, then=lambda: done.append("then"))
        assert await database.read(lambda c: c.execute("SELECT key FROM meta").fetchall()) == []
    assert done == [each for each in ["first"] if each != fails]


async def test_writes_of_many_threads_are_told_in_the_order_of_their_commits(tmp_path: Path) -> None:
    told: list[int] = []

    def number(connection: sqlite3.Connection) -> int:
        put(str(connection.execute("SELECT count(*) FROM meta").fetchone()[0]), "")(connection)
        return int(connection.execute("SELECT count(*) FROM meta").fetchone()[0])

    async with Database.open(tmp_path / "b.db") as database:
        by_hand = [
            database.write(number, durable=each % 2 == 0, committed=told.append, first=lambda: None)
            for each in range(100)
        ]
        by_the_writer = [database.write(number, durable=False, committed=told.append) for _ in range(100)]
        results = await asyncio.gather(*by_hand, *by_the_writer)
    assert told == list(range(1, 201))
    assert sorted(results) == told


async def test_who_waits_for_a_disk_before_a_write_holds_nobody_else(tmp_path: Path) -> None:
    disk = threading.Event()
    async with Database.open(tmp_path / "b.db") as database:
        held = asyncio.create_task(database.write(put("held", "1"), first=lambda: disk.wait(60)))
        await asyncio.sleep(0)
        await database.write(put("other", "1"))
        await database.write(put("by hand", "1"), first=lambda: None)
        assert not held.done()
        disk.set()
        await held


def names(place: Path) -> set[str]:
    return {each.name for each in place.iterdir()}


async def test_the_log_s_blocks_outlive_the_manager_and_what_they_held_does_not(tmp_path: Path) -> None:
    """A full disk must not keep a manager from starting, nor an old log's frames come back."""
    path = tmp_path / "b.db"
    for number in range(3):
        async with Database.open(path) as database:
            assert (tmp_path / "b.db-wal").stat().st_blocks * 512 >= 4 << 20
            await database.write(put(f"key {number}", "value"))
        assert names(tmp_path) == {"b.db", "b.lock", "b.db-reserve-wal", "b.db-reserve-shm"}
        assert (tmp_path / "b.db-reserve-wal").stat().st_blocks * 512 >= 4 << 20
    with sqlite3.connect(path) as connection:
        assert len(connection.execute("SELECT * FROM meta").fetchall()) == 3
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA freelist_count").fetchone()[0] >= 64


async def test_the_reserve_outlives_a_reader(tmp_path: Path) -> None:
    """The doctor's reading of a stopped manager's records leaves an empty log, which takes nobody's place."""
    path = tmp_path / "b.db"
    async with Database.open(path) as database:
        await database.write(put("key", "value"))
    kept = (tmp_path / "b.db-reserve-wal").stat()
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
        assert reader.execute("SELECT count(*) FROM meta").fetchone() == (1,)
    assert (tmp_path / "b.db-wal").stat().st_size == 0
    async with Database.open(path) as database:
        taken = (tmp_path / "b.db-wal").stat()
        assert (taken.st_ino, taken.st_blocks) == (kept.st_ino, kept.st_blocks)
        assert await database.read(lambda c: c.execute("SELECT key FROM meta").fetchall()) == [("key",)]


@pytest.mark.parametrize(
    ("fault", "kind", "advice"),
    [
        ("EIO", Internal, "Input/output error: the disk fails, the kernel's log tells more"),
        ("ENOSPC", ResourceExhausted, "No space left on device: docker system prune frees what is unused"),
    ],
)
async def test_a_write_that_the_disk_refuses_says_what_to_do_and_leaves_nothing(
    tmp_path: Path, fault: str, kind: type[BulkheadError], advice: str
) -> None:
    def insert(key: str) -> Callable[[sqlite3.Connection], object]:
        return lambda c: c.execute("INSERT INTO meta (key, value) VALUES (?, '')", (key,))

    async with Database.open(tmp_path / "b.db") as database:
        await database.write(insert("before"))
        failpoints.set_to(f"manager.records.written=error({fault})")
        try:
            with pytest.raises(kind, match=re.escape(advice)):
                await database.write(insert("refused"))
        finally:
            failpoints.set_to("")
        await database.write(insert("after"))
        rows = await database.read(lambda c: c.execute("SELECT key FROM meta ORDER BY key").fetchall())
        assert rows == [("after",), ("before",)]


def pages_in_memory(descriptor: int) -> set[int]:
    """Which pages of a file the kernel has: mincore(2). Reading them, even without waiting, would fetch the others."""
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
        residency = (ctypes.c_ubyte * (len(mapped) // mmap.PAGESIZE))()
        begin = ctypes.c_char.from_buffer(mapped)
        try:
            assert ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(begin)), len(mapped), residency) == 0
        finally:
            del begin
        return {page for page, state in enumerate(residency) if state & 1}


@pytest.mark.parametrize("begins_anew", (False, True))
async def test_the_log_is_in_memory_by_the_time_it_is_written(tmp_path: Path, begins_anew: bool) -> None:
    """A page of the log that the kernel has not would be read from disk first, one after the other."""
    async with Database.open(tmp_path / "b.db") as database:
        for number in range(30):
            await database.write(put(f"before {number}", "x" * 5000))
        if begins_anew:
            with contextlib.closing(sqlite3.connect(tmp_path / "b.db")) as other:
                assert other.execute("PRAGMA wal_checkpoint(FULL)").fetchone()[0] == 0
        descriptor = os.open(tmp_path / "b.db-wal", os.O_RDWR)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            if pages_in_memory(descriptor):
                pytest.skip("this filesystem keeps what it is told to drop")
            before = (tmp_path / "b.db-wal").read_bytes()
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

            def while_read(connection: sqlite3.Connection) -> set[int]:
                put("key", "value")(connection)
                deadline = time.monotonic() + 10
                while len(found := pages_in_memory(descriptor)) < 8 and time.monotonic() < deadline:
                    threading.Event().wait(0.01)
                return found

            in_memory = await database.write(while_read)
        finally:
            os.close(descriptor)
        after = (tmp_path / "b.db-wal").read_bytes()
        written = {at // 4096 for at in range(len(after)) if after[at : at + 1] != before[at : at + 1]}
        assert written and written <= in_memory
        assert (min(written) == 0) is begins_anew
        assert len(in_memory) <= 48
