"""After an operation that was given up while its record was being written: nobody knows then what is on record.

A deadline passes while a disk stands still, or while this process does, and the transaction is committed all the same.
Who asked has been told that it took too long; what follows from the record is done once the record is known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from bulkhead.errors import BulkheadError
from bulkhead.manager.actors import Actors
from bulkhead.manager.ports import Records


def settle_later(
    records: Records,
    actors: Actors,
    container_id: str,
    settle: Callable[[], Awaitable[None]],
    *,
    seconds: float,
    after: Sequence[asyncio.Future[None]] = (),
) -> None:
    """Perform `settle` in the container's actor when all that was to be written by now is, or is refused, and what it
    comes `after` has ended, however it did."""

    async def settled() -> None:
        await asyncio.gather(records.written(), *after, return_exceptions=True)
        with suppress(BulkheadError):
            await actors.perform(container_id, "settle", settle, seconds=seconds)

    actors.own(settled(), f"settle {container_id[:12]}")
