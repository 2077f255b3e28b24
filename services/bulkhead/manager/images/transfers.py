"""Long operations that several clients may watch: each runs once, as long as somebody watches.

Two clients that pull the same image with the same credentials watch one pull. A client that goes away
changes nothing for the others; with the last one the operation is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from dataclasses import dataclass, field

import structlog

from bulkhead.errors import BulkheadError, Internal, Unavailable
from bulkhead.manager.images.progress import Feed, Progress

log = structlog.get_logger()
Operation = Callable[[Feed], Awaitable[None]]


@dataclass(slots=True, eq=False)
class _Transfer:
    feed: Feed = field(default_factory=Feed)
    task: asyncio.Task[None] | None = None
    watchers: int = 0
    error: BulkheadError | None = None


class Transfers:
    """Owner of running operations; leaving it cancels them all."""

    def __init__(self) -> None:
        self._running: dict[Hashable, _Transfer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    async def close(self) -> None:
        """Cancel what runs and wait for its end."""
        self._closing = True
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    async def watch(self, key: Hashable, operation: Operation) -> AsyncGenerator[Progress, None]:
        """The progress of `operation`, or of the one that already runs under `key`.

        An error before the first line is raised; a later one is the last line.
        """
        if self._closing:
            raise Unavailable("the manager is stopping")
        transfer = self._running.get(key) or self._start(key, operation)
        transfer.watchers += 1
        spoke = False
        try:
            async for progress in transfer.feed.read():
                spoke = True
                yield progress
        finally:
            transfer.watchers -= 1
            if transfer.watchers == 0 and transfer.task is not None:
                self._forget(key, transfer)
                transfer.task.cancel()
        if transfer.error is not None:
            if not spoke:
                raise transfer.error
            yield Progress(error=str(transfer.error), error_kind=_kind(transfer.error))

    def _start(self, key: Hashable, operation: Operation) -> _Transfer:
        transfer = _Transfer()
        self._running[key] = transfer
        transfer.task = asyncio.create_task(self._run(key, transfer, operation))
        self._tasks.add(transfer.task)
        transfer.task.add_done_callback(self._tasks.discard)
        return transfer

    async def _run(self, key: Hashable, transfer: _Transfer, operation: Operation) -> None:
        try:
            await operation(transfer.feed)
        except BulkheadError as error:
            transfer.error = error
        except asyncio.CancelledError:
            transfer.error = Unavailable("the operation was cancelled")
            raise
        except Exception as error:
            log.exception("image operation failed", operation=str(key))
            transfer.error = Internal(f"{type(error).__name__}: {error}")
        finally:
            self._forget(key, transfer)
            transfer.feed.end()

    def _forget(self, key: Hashable, transfer: _Transfer) -> None:
        if self._running.get(key) is transfer:
            del self._running[key]


def _kind(error: BulkheadError) -> str:
    """The class of errors.py that an error is; adapters may have their own below those."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == BulkheadError.__module__)
