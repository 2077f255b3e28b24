"""The journal: nothing is lost unnoticed, whoever is slow, whenever the manager restarts."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bulkhead.errors import InvalidArgument, Unavailable
from bulkhead.manager import eventbus
from bulkhead.manager.adapters.database import Database
from bulkhead.manager.adapters.journal_store import SqliteJournalStore
from bulkhead.manager.eventbus import EventBus
from bulkhead.model.events import GAP_ACTION, Event


@asynccontextmanager
async def _bus(base: Path, keep: int = 1000, keep_seconds: int = 3600) -> AsyncIterator[EventBus]:
    async with Database.open(base / "b.db") as database:
        bus = EventBus(SqliteJournalStore(database), keep=keep, keep_seconds=keep_seconds)
        await bus.open()
        yield bus


def _event(action: str, kind: str = "container", at: int = 0) -> Event:
    return Event(type=kind, action=action, actor_id="x", time=at or time.time_ns())


async def _take(entries: AsyncIterator[Event], count: int) -> list[str]:
    async with asyncio.timeout(10):
        return [(await anext(entries)).action for _ in range(count)]


async def test_live_events_in_order_from_the_moment_of_subscribing(tmp_path: Path) -> None:
    async with _bus(tmp_path) as bus:
        await bus.write(_event("before"))
        entries = await bus.subscribe()
        await bus.write(_event("one"), _event("two"))
        await bus.write(_event("three"))
        assert await _take(entries, 3) == ["one", "two", "three"]


async def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    async with _bus(tmp_path) as bus:
        await bus.write(_event("one"), _event("two"))
        assert bus.last_sequence == 2
    async with _bus(tmp_path) as bus:
        entries = await bus.subscribe(since=0)
        await bus.write(_event("three"))
        assert await _take(entries, 3) == ["one", "two", "three"]
        assert bus.last_sequence == 3


async def test_since_and_until(tmp_path: Path) -> None:
    async with _bus(tmp_path) as bus:
        for at in (100, 200, 300, 400):
            await bus.write(_event(str(at), at=at))
        entries = await bus.subscribe(since=200, until=300)
        assert [event.action async for event in entries] == ["200", "300"]


async def test_what_is_told_late_hides_nothing_younger_and_is_shown_itself(tmp_path: Path) -> None:
    """An exec's beginning is on record with its end."""
    async with _bus(tmp_path) as bus:
        await bus.write(_event("150", at=150))
        await bus.write(_event("100", at=100), _event("160", at=160))

        async def shown(since: int, until: int) -> list[str]:
            entries = await bus.subscribe(since=since, until=until)
            return [event.action async for event in entries]

        assert await shown(120, 200) == ["150", "160"]
        assert await shown(0, 120) == ["100"]
        assert await shown(170, 200) == []


async def test_until_in_the_future_ends_by_itself(tmp_path: Path) -> None:
    async with _bus(tmp_path) as bus:
        entries = await bus.subscribe(until=time.time_ns() + 50_000_000)
        assert [event async for event in entries] == []


async def test_filters(tmp_path: Path) -> None:
    async with _bus(tmp_path) as bus:
        entries = await bus.subscribe(since=0, filters={"type": ["image"]})
        await bus.write(_event("create"), _event("pull", "image"))
        assert await _take(entries, 1) == ["pull"]
        with pytest.raises(InvalidArgument):
            await bus.subscribe(filters={"nosuch": ["1"]})


async def test_slow_reader_reads_on_from_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lag costs no memory: what has left the memory of recent entries comes from the disk."""
    monkeypatch.setattr(eventbus, "RECENT", 4)
    monkeypatch.setattr(eventbus, "BATCH", 3)
    async with _bus(tmp_path) as bus:
        entries = await bus.subscribe()
        for number in range(20):
            await bus.write(_event(str(number)))
        assert await _take(entries, 20) == [str(number) for number in range(20)]


async def test_entries_of_many_labels_are_not_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's maker chooses how large its events are; they are read all the same."""
    monkeypatch.setattr(eventbus, "RECENT_ATTRIBUTES", 100)
    labels = {str(number): "" for number in range(30)}
    async with _bus(tmp_path) as bus:
        entries = await bus.subscribe()
        for number in range(20):
            await bus.write(replace(_event(str(number)), attributes=labels))
        assert len(bus._recent) == 3
        await bus.write(replace(_event("huge"), attributes={str(number): "" for number in range(101)}))
        assert len(bus._recent) == 0
        await bus.write(_event("small"))
        assert len(bus._recent) == 1
        assert await _take(entries, 22) == [*(str(number) for number in range(20)), "huge", "small"]


async def test_what_retention_took_shows_as_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventbus, "RECENT", 2)
    async with _bus(tmp_path, keep=3) as bus:
        await bus.write(_event("seen"))
        entries = await bus.subscribe(since=0)
        assert await _take(entries, 1) == ["seen"]
        for number in range(10):
            await bus.write(_event(str(number)))
        trimming = asyncio.create_task(bus.keep_trimmed())
        await bus.write(_event("last"))
        gap = await anext(entries)
        trimming.cancel()
        assert gap.action == GAP_ACTION
        assert gap.attributes == {"missed": "8"}
        assert await _take(entries, 3) == ["8", "9", "last"]


async def test_old_entries_are_trimmed(tmp_path: Path) -> None:
    async with _bus(tmp_path, keep_seconds=60) as bus:
        await bus.write(_event("old", at=1), _event("new"))
        trimming = asyncio.create_task(bus.keep_trimmed())
        await bus.write(_event("newer"))
        trimming.cancel()
    async with _bus(tmp_path) as bus:
        assert await _take(await bus.subscribe(since=0), 2) == ["new", "newer"]


async def test_while_the_disk_stands_still_what_is_remembered_is_told_and_the_rest_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eventbus, "DISK_SECONDS", 0.05)
    old, new = 10**18, 15 * 10**17
    async with _bus(tmp_path) as bus:
        await bus.write(_event("one", at=old))
    async with Database.open(tmp_path / "b.db") as database:
        bus = EventBus(SqliteJournalStore(database), keep=1000, keep_seconds=3600)
        await bus.open()
        await bus.write(_event("two", at=new), _event("three", at=new + 10**9))
        disk = threading.Event()
        standing = asyncio.create_task(database.read(lambda _: disk.wait(60)))
        await asyncio.sleep(0)
        entries = await bus.subscribe(since=new + 10**9, until=new + 10**10)
        assert [event.action async for event in entries] == ["three"]
        with pytest.raises(Unavailable, match="its disk does not answer"):
            await bus.subscribe(since=old)
        disk.set()
        await standing
        assert await _take(await bus.subscribe(since=old), 3) == ["one", "two", "three"]
