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
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from bulkhead.linux.threads import Hands

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


# They go with their loop.
_HANDS: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Hands] = weakref.WeakKeyDictionary()


async def aside(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`work(*args, **kwargs)` in a thread; its result, or what it raised. Who is cancelled leaves it behind."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()
    whole = functools.partial(work, *args, **kwargs)
    call = _Call(work=whole, context=contextvars.copy_context(), loop=loop, answer=answer)
    (_HANDS.get(loop) or _hands(loop)).do(functools.partial(_perform, call))
    return await answer


class Apart:
    """Threads of their own for calls that may stand still for long: who waits here for a disk, or for a file server, is
    in nobody's way who waits for another."""

    def __init__(self, most: int, name: str) -> None:
        self._hands = Hands(most, name)
        weakref.finalize(self, self._hands.dismiss).atexit = False

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `aside`, which is on the way of each request, and therefore written out."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        whole = functools.partial(work, *args, **kwargs)
        call = _Call(work=whole, context=contextvars.copy_context(), loop=loop, answer=answer)
        self._hands.do(functools.partial(_perform, call))
        return await answer


def _hands(loop: asyncio.AbstractEventLoop) -> Hands:
    hands = _HANDS[loop] = Hands(MOST_THREADS, "aside")
    weakref.finalize(loop, hands.dismiss).atexit = False
    return hands


def _perform(call: _Call) -> Callable[[], None] | None:
    if call.answer.cancelled():
        return None
    try:
        return functools.partial(_tell, call, call.context.run(call.work), None)
    except BaseException as error:  # whatever it is belongs to who asked
        return functools.partial(_tell, call, None, error)


def _tell(call: _Call, result: Any, error: BaseException | None) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        call.loop.call_soon_threadsafe(_settle, call.answer, result, error)


def _settle(answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)
