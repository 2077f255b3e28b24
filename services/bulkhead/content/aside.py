"""Blocking calls beside the event loop, for what is on the way of each request.

As `asyncio.to_thread` does it, for a third of the processor time: there two futures tell each other through four
locks, which costs more than a few calls to a disk that answers. The threads are daemons: a disk that stands still
holds up whoever waits for it, and no service that stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import queue
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Those who wait for a disk that stands still are not to be waited for by all others.
MOST_THREADS = 32


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    work: Callable[[], Any]
    context: contextvars.Context
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]
    hands: _Hands


_Queue = queue.SimpleQueue[_Call | None]


class _Hands:
    """The threads of one loop, started as they are wanted. Its books are kept in the loop, and it outlives none."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._queue: _Queue = queue.SimpleQueue()
        self._threads = 0
        self._under_way = 0
        weakref.finalize(loop, self._queue.put, None).atexit = False

    def take(self, call: _Call) -> None:
        """Raises RuntimeError when there is no thread, and none can be started."""
        if self._under_way >= self._threads and self._threads < MOST_THREADS:
            self._grow()
        self._under_way += 1
        self._queue.put(call)

    def settle(self, call: _Call, result: Any, error: BaseException | None) -> None:
        """In the loop: a call has ended."""
        self._under_way -= 1
        if call.answer.done():
            return
        if error is None:
            call.answer.set_result(result)
        else:
            call.answer.set_exception(error)

    def _grow(self) -> None:
        try:
            threading.Thread(target=_serve, args=(self._queue,), name="aside", daemon=True).start()
        except RuntimeError:
            if not self._threads:
                raise
        else:
            self._threads += 1


_HANDS: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Hands] = weakref.WeakKeyDictionary()


async def aside(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`work(*args, **kwargs)` in a thread; its result, or what it raised. Who is cancelled leaves it behind."""
    loop = asyncio.get_running_loop()
    hands = _HANDS.get(loop)
    if hands is None:
        hands = _HANDS[loop] = _Hands(loop)
    answer: asyncio.Future[T] = loop.create_future()
    whole = functools.partial(work, *args, **kwargs)
    hands.take(_Call(work=whole, context=contextvars.copy_context(), loop=loop, answer=answer, hands=hands))
    return await answer


def _serve(calls: _Queue) -> None:
    while (call := calls.get()) is not None:
        if not call.answer.cancelled():
            _perform(call)
        else:
            _tell(call, None, None)
        del call  # it knows its loop, which must not live for a thread that waits
    calls.put(None)


def _perform(call: _Call) -> None:
    try:
        result = call.context.run(call.work)
    except BaseException as error:  # whatever it is belongs to who asked
        _tell(call, None, error)
    else:
        _tell(call, result, None)


def _tell(call: _Call, result: Any, error: BaseException | None) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        call.loop.call_soon_threadsafe(call.hands.settle, call, result, error)
