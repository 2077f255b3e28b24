"""Trees of files on a disk whose directories are in no cache: to count one takes minutes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from bulkhead.manager import tree_sizes

# More than there are threads in asyncio's own pool.
MANY = 40


async def holds_up_nobody(call: Callable[[int], Awaitable[object]], thaws: threading.Event) -> list[object]:
    """What many calls answer that wait until the disk thaws, which is when others have got a thread of the loop's."""
    held = [asyncio.ensure_future(call(number)) for number in range(MANY)]
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(20):
            await asyncio.to_thread(int)
    finally:
        thaws.set()
    return await asyncio.gather(*held)


def cold_trees(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Each tree has 7 bytes, and nobody knows before the event is set."""
    thaws = threading.Event()
    monkeypatch.setattr(tree_sizes, "bytes_below", lambda _: 7 if thaws.wait(30) else 0)
    return thaws
