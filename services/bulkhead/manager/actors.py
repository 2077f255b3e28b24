"""One actor per container: its operations run one after the other, each with a deadline, each to its end.

    await actors.perform(container_id, "start", lambda: start(container_id), seconds=60)

An operation belongs to the actor, not to who asked for it: a client that goes away, or whose call is cancelled,
leaves no half-work. Waiting for a container (for its exit, say) is no operation: do it outside, so that other
operations get their turn.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from bulkhead.errors import BulkheadError, DeadlineExceeded, Unavailable
from bulkhead.wire import inflight
from bulkhead.wire.inflight import InFlight

log = structlog.get_logger()

T = TypeVar("T")
DRAIN_SECONDS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operation:
    name: str
    work: Callable[[], Awaitable[Any]]
    seconds: float
    context: contextvars.Context
    future: asyncio.Future[Any]
    shown: inflight.Operation


class _Actor:
    """The ordered queue of one container."""

    __slots__ = ("queue", "running")

    def __init__(self) -> None:
        self.queue: deque[_Operation] = deque()
        self.running: asyncio.Task[None] | None = None


class Actors:
    """All actors of the manager, and the owner of every task they run. Use as an async context manager."""

    def __init__(self) -> None:
        self._actors: dict[str, _Actor] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False
        self.in_flight = InFlight()

    async def __aenter__(self) -> Actors:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Operations under way get a while to end; what waits and what watches is dropped."""
        self._closing = True
        operations = {actor.running for actor in self._actors.values() if actor.running is not None}
        for actor in self._actors.values():
            for operation in actor.queue:
                _fail(operation, Unavailable(f"cannot {operation.name} container: the manager is stopping"))
            actor.queue.clear()
        others = self._tasks - operations
        for task in others:
            task.cancel()
        if operations:
            await asyncio.wait(operations, timeout=DRAIN_SECONDS)
        given_up = set(self._tasks)
        for task in given_up:
            task.cancel()
        if given_up:
            await asyncio.wait(given_up, timeout=DRAIN_SECONDS)
        # What those had begun for later; the next manager looks for itself.
        for task in self._tasks - given_up:
            task.cancel()

    async def perform(self, container_id: str, name: str, work: Callable[[], Awaitable[T]], *, seconds: float) -> T:
        """Run `work` when the container's earlier operations have ended; its result.

        Raises what it raises, DeadlineExceeded when it takes longer than `seconds`, Unavailable while the manager
        stops. When the caller is cancelled the operation runs on.
        """
        if self._closing:
            raise Unavailable(f"cannot {name} container: the manager is stopping")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        shown = self._shown(future, name, container_id, seconds, inflight.QUEUED)
        operation = _Operation(
            name=name, work=work, seconds=seconds, context=contextvars.copy_context(), future=future, shown=shown
        )
        actor = self._actors.setdefault(container_id, _Actor())
        actor.queue.append(operation)
        if actor.running is None:
            self._next(container_id, actor)
        return await asyncio.shield(future)

    def _shown(
        self, ended: asyncio.Future[Any], name: str, container_id: str, seconds: float | None, phase: str
    ) -> inflight.Operation:
        """In flight until `ended` is done."""
        shown = self.in_flight.tracked(name, container_id, seconds=seconds or 0.0, phase=phase)
        ended.add_done_callback(shown.__exit__)
        return shown

    def own(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """A task of ours: it is cancelled when the manager stops, and its failure is logged."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def shielded(
        self, work: Coroutine[Any, Any, T], name: str, container_id: str = "", *, seconds: float | None = None
    ) -> T:
        """Run `work` to its end even when the caller is cancelled meanwhile.

        Without `seconds` it must be made of operations that have deadlines of their own. Raises what it
        raises, DeadlineExceeded when it takes longer than `seconds`.
        """
        task = self._start(_limited(work, name, seconds), name)
        task.add_done_callback(_take_error)
        self._shown(task, name, container_id, seconds, inflight.RUNNING)
        return await asyncio.shield(task)

    def _start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _next(self, container_id: str, actor: _Actor) -> None:
        if not actor.queue:
            actor.running = None
            del self._actors[container_id]
            return
        operation = actor.queue.popleft()
        loop = asyncio.get_running_loop()
        task = loop.create_task(_run(operation), name=operation.name, context=operation.context)
        self._tasks.add(task)
        actor.running = task
        task.add_done_callback(lambda done: self._after(done, container_id, actor))

    def _after(self, task: asyncio.Task[None], container_id: str, actor: _Actor) -> None:
        self._tasks.discard(task)
        self._next(container_id, actor)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("task failed", task=task.get_name(), exc_info=task.exception())


async def _limited(work: Coroutine[Any, Any, T], name: str, seconds: float | None) -> T:
    try:
        async with asyncio.timeout(seconds) as deadline:
            return await work
    except TimeoutError as error:
        if not deadline.expired():
            raise
        raise DeadlineExceeded(f"cannot {name} container: it took longer than {seconds:g} s") from error


async def _run(operation: _Operation) -> None:
    """Perform, and settle the future; never raises but for cancellation at shutdown."""
    operation.shown.phase = inflight.RUNNING
    try:
        async with asyncio.timeout(operation.seconds) as deadline:
            result = await operation.work()
    except TimeoutError as error:
        if deadline.expired():
            text = f"cannot {operation.name} container: it took longer than {operation.seconds:g} s"
            _fail(operation, DeadlineExceeded(text))
        else:
            _fail(operation, error)
    except asyncio.CancelledError:
        _fail(operation, Unavailable(f"cannot {operation.name} container: the manager is stopping"))
        raise
    except Exception as error:  # whatever it is belongs to who asked
        if operation.future.cancelled() and not isinstance(error, BulkheadError):
            log.exception("operation failed", operation=operation.name)
        _fail(operation, error)
    else:
        if not operation.future.done():
            operation.future.set_result(result)


def _fail(operation: _Operation, error: BaseException) -> None:
    if operation.future.done():
        return
    operation.future.set_exception(error)
    operation.future.exception()  # seen: nobody may be left to fetch it


def _take_error(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
