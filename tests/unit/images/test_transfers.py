"""Progress reaches every client, and an operation lives exactly as long as somebody watches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from bulkhead.errors import DataLoss, Internal, NotFound
from bulkhead.manager.images.progress import Feed, Progress
from bulkhead.manager.images.transfers import Transfers


@pytest.fixture
async def transfers() -> AsyncIterator[Transfers]:
    found = Transfers()
    yield found
    await found.close()


async def collect(lines: AsyncIterator[Progress]) -> list[Progress]:
    return [line async for line in lines]


async def test_everybody_hears_every_line(transfers: Transfers) -> None:
    go = asyncio.Event()
    runs = 0

    async def operation(feed: Feed) -> None:
        nonlocal runs
        runs += 1
        feed.say("one")
        await go.wait()
        feed.say("two")

    first = transfers.watch("key", operation)
    assert (await anext(first)).status == "one"
    late = transfers.watch("key", operation)
    assert (await anext(late)).status == "one", "who comes late hears what was said"
    go.set()
    assert [line.status for line in await collect(first)] == ["two"]
    assert [line.status for line in await collect(late)] == ["two"]
    assert runs == 1


async def test_last_client_to_leave_ends_the_operation(transfers: Transfers) -> None:
    ended = asyncio.Event()

    async def operation(feed: Feed) -> None:
        feed.say("begun")
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    watchers = [transfers.watch("key", operation) for _ in range(2)]
    for watcher in watchers:
        await anext(watcher)
    await watchers[0].aclose()
    assert not ended.is_set()
    await watchers[1].aclose()
    await asyncio.wait_for(ended.wait(), 20)


async def test_error_before_the_first_line_is_raised_and_later_ones_are_told(transfers: Transfers) -> None:
    async def early(feed: Feed) -> None:
        raise NotFound("not here")

    async def late(feed: Feed) -> None:
        feed.say("begun")
        raise DataLoss("torn")

    async def broken(feed: Feed) -> None:
        raise ZeroDivisionError

    with pytest.raises(NotFound, match="not here"):
        await collect(transfers.watch(1, early))
    lines = await collect(transfers.watch(2, late))
    assert lines[-1] == Progress(error="torn", error_kind="DataLoss")
    with pytest.raises(Internal):
        await collect(transfers.watch(3, broken))


async def test_closing_ends_what_runs(transfers: Transfers) -> None:
    async def operation(feed: Feed) -> None:
        feed.say("begun")
        await asyncio.Event().wait()

    watcher = transfers.watch("key", operation)
    await anext(watcher)
    await transfers.close()
    rest = await asyncio.wait_for(collect(watcher), 20)
    assert rest[-1].error_kind == "Unavailable"


async def test_slow_reader_misses_counts_but_no_line() -> None:
    """A client that sleeps through a long pull must not cost memory."""
    feed = Feed()
    lines = feed.read()
    feed.say("Pulling fs layer", "a")
    assert (await anext(lines)).status == "Pulling fs layer"
    for done in range(1, 1000):
        feed._told.clear()  # no throttling: every count is offered
        feed.count("Downloading", "a", done, 1000)
    feed.say("Download complete", "a")
    feed._told.clear()
    feed.count("Extracting", "a", 1, 1000)
    feed.end()
    rest = await collect(lines)
    assert [line.status for line in rest] == ["Downloading", "Download complete", "Extracting"]
    assert rest[0].current == 999


async def test_counts_are_told_ten_times_a_second_at_most() -> None:
    feed = Feed()
    for done in range(1, 1000):
        feed.count("Downloading", "a", done, 1000)
        feed.count("Downloading", "b", done, 1000)
    feed.end()
    assert len(await collect(feed.read())) <= 4


async def test_cancelled_reader_leaves_the_feed(transfers: Transfers) -> None:
    feed = Feed()
    reading = asyncio.create_task(collect(feed.read()))
    await asyncio.sleep(0)
    assert feed._readers
    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reading
    assert not feed._readers
