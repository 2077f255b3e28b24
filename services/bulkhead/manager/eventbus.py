"""The journal of events: durable, numbered, replayable.

A subscriber is a position in the journal, not a queue: it reads the latest entries from memory and, when it was
slow or asks for the past, older ones from the store. So no reader costs memory, none loses an entry unnoticed:
what retention has dropped before it was read shows up as one explicit gap.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

import structlog

from bulkhead.errors import BulkheadError, Unavailable
from bulkhead.model.events import Event, gap
from bulkhead.model.filters import EVENT_KEYS, Filters, check_keys, matches_event

log = structlog.get_logger()

Announce = Callable[[Sequence[Event]], None]
# Of a hundred lives: 0.6 KB each. Who lags behind more than that reads from the store.
RECENT = 512
# Labels of the remembered entries in all: a container has as many as its maker likes, and each of its events.
RECENT_ATTRIBUTES = 12_500
BATCH = 512
TRIM_SECONDS = 300.0
# How much later than it happened something may be told, behind what is younger (`execs.BRIEF`, and a commit).
LATE_NS = 250_000_000
# Who asks for the past waits so long for a disk that stands still.
DISK_SECONDS = 5.0


class JournalStore(Protocol):
    """Where the entries are kept."""

    async def last_sequence(self) -> int:
        """The number of the newest entry ever written, 0 = none."""

    async def after(self, sequence: int, limit: int) -> list[Event]:
        """Entries with greater numbers, oldest first."""

    async def before_time(self, time: int) -> int:
        """The number of the newest entry older than `time` (Unix nanoseconds), 0 = none."""

    async def append(self, events: Sequence[Event], announce: Announce) -> None:
        """Write entries; `announce` is called with their numbers once they are committed."""

    async def trim(self, keep: int, oldest: int) -> None:
        """Drop all but the newest `keep`, and those older than `oldest` (Unix nanoseconds)."""


class EventBus:
    """Announces what was committed, and replays it."""

    def __init__(self, store: JournalStore, *, keep: int, keep_seconds: int) -> None:
        self._store = store
        self._keep = keep
        self._keep_seconds = keep_seconds
        self._recent: deque[Event] = deque()
        self._attributes = 0  # of those
        self._last = 0
        self._news = asyncio.Event()

    async def open(self) -> None:
        """Find where the journal ends. Before the first write."""
        self._last = await self._store.last_sequence()

    @property
    def last_sequence(self) -> int:
        """The number of the newest entry."""
        return self._last

    async def write(self, *events: Event) -> None:
        """Append events that belong to no change of a record; returns when they are in the journal."""
        await self._store.append(events, self.announce)

    def announce(self, events: Sequence[Event]) -> None:
        """Wake the subscribers: these are committed. Called in the order of their numbers."""
        if not events:
            return
        for event in events:
            self._remember(event)
        self._last = events[-1].sequence
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _remember(self, event: Event) -> None:
        self._recent.append(event)
        self._attributes += len(event.attributes)
        while self._recent and (len(self._recent) > RECENT or self._attributes > RECENT_ATTRIBUTES):
            self._attributes -= len(self._recent.popleft().attributes)

    async def subscribe(
        self, *, since: int | None = None, until: int | None = None, filters: Filters | None = None
    ) -> AsyncIterator[Event]:
        """Entries from `since` on (None: from now), up to `until` (None: for ever), both Unix nanoseconds.

        The position is taken before this returns. Raises InvalidArgument for a bad filter, Unavailable for the past
        while its disk stands still.
        """
        wanted = filters or {}
        check_keys(wanted, EVENT_KEYS)
        position = self._last if since is None else await self._before(since)
        if since is not None and until is None and since > time.time_ns():
            position = self._last
        return self._follow(position, since, until, wanted)

    async def _before(self, since: int) -> int:
        """The position from which nothing of `since` is missed. What lies not long back is remembered: while a disk
        stands still, that is told."""
        try:
            async with asyncio.timeout(DISK_SECONDS):
                return await self._store.before_time(since)
        except TimeoutError:
            oldest = self._recent[0] if self._recent else None
            if oldest is None or (oldest.sequence > 1 and oldest.time + LATE_NS >= since):
                raise Unavailable("cannot read the journal of events: its disk does not answer") from None
            return next((each.sequence - 1 for each in self._recent if each.time >= since), self._last)

    async def _follow(
        self, position: int, since: int | None, until: int | None, filters: Filters
    ) -> AsyncIterator[Event]:
        while True:
            news = self._news
            for event in await self._after(position):
                if until is not None and event.time > until + LATE_NS:
                    return
                if event.sequence > position + 1 and position > 0:
                    yield gap(event.sequence - position - 1, event.time)
                position = event.sequence
                if _is_within(event.time, since, until) and matches_event(event, filters):
                    yield event
            if position < self._last:
                continue
            if not await _news_before(news, until):
                return

    async def _after(self, position: int) -> list[Event]:
        if position >= self._last:
            return []
        if self._recent and self._recent[0].sequence <= position + 1:
            offset = position + 1 - self._recent[0].sequence
            return [self._recent[each] for each in range(offset, min(offset + BATCH, len(self._recent)))]
        return await self._store.after(position, BATCH)

    async def keep_trimmed(self) -> None:
        """Until cancelled: drop what is more than enough or too old."""
        while True:
            oldest = time.time_ns() - self._keep_seconds * 1_000_000_000
            try:
                await self._store.trim(self._keep, oldest)
            except BulkheadError as error:
                log.warning("cannot trim the journal", reason=str(error))
            await asyncio.sleep(TRIM_SECONDS)


def _is_within(moment: int, since: int | None, until: int | None) -> bool:
    return (since is None or moment >= since) and (until is None or moment <= until)


async def _news_before(news: asyncio.Event, until: int | None) -> bool:
    """Wait for news; False when `until` comes first, and what is told late of the time before it has come."""
    if until is None:
        await news.wait()
        return True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, (until + LATE_NS - time.time_ns()) / 1e9)):
            await news.wait()
        return True
    return False
