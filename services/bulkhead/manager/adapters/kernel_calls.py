"""Calls of the kernel on threads of their own, since they may wait for its network lock; and its errors as ours."""

from __future__ import annotations

import _thread
import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from bulkhead.errors import Conflict, Internal, NotFound, Unavailable
from bulkhead.linux import threads
from bulkhead.linux.nftables import NftablesMissing

T = TypeVar("T")


async def on_new_thread(body: Callable[[], T]) -> T:
    """What `body` returns or raises on a new thread; a cancelled awaiter waits for its end first.

    Raises OSError when there can be no thread.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = body()
        except BaseException as error:
            loop.call_soon_threadsafe(done.set_exception, error)
        else:
            loop.call_soon_threadsafe(done.set_result, result)

    # Not threading.Thread: its start() makes the event loop wait until the thread runs.
    with threads.refusal():
        _thread.start_new_thread(run, ())
    cancelled: asyncio.CancelledError | None = None
    while not done.done():
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        done.exception()
        raise cancelled
    return done.result()


@contextmanager
def translated(deed: str) -> Iterator[None]:
    """OSErrors as errors of ours, which say what was tried."""
    try:
        yield
    except NftablesMissing as error:
        raise Unavailable(f"{deed}: {error.strerror}") from error
    except ProcessLookupError as error:
        raise NotFound(f"{deed}: {error}") from error
    except FileExistsError as error:
        raise Conflict(f"{deed}: {error.strerror}") from error
    except PermissionError as error:
        raise Unavailable(f"{deed}: {error.strerror}; root with CAP_NET_ADMIN is needed") from error
    except OSError as error:
        raise Internal(f"{deed}: {error.strerror or error}") from error
