"""What the API asks the manager, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from bulkhead.api.adapters.manager import ManagerContainers
from bulkhead.wire.client import channel
from bulkhead.wire.gen.bulkhead.manager.v1 import ContainersBase, WaitContainerRequest, WaitContainerResponse
from bulkhead.wire.server import serve


class Waiter(ContainersBase):
    """Its containers end with 3 as soon as somebody waits for them; `left` is set when one who waits has gone."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def wait(self, message: WaitContainerRequest) -> AsyncIterator[WaitContainerResponse]:
        try:
            yield WaitContainerResponse(registered=True)
            yield WaitContainerResponse(exit_code=3)
            await asyncio.Event().wait()
        finally:
            self.left.set()


@contextlib.contextmanager
def left_to_the_loop() -> Iterator[list[Any]]:
    """Generators that nobody has closed: the loop, which has to be the one that runs, would make a task for each."""
    found: list[Any] = []
    before = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(finalizer=found.append)
    try:
        yield found
    finally:
        sys.set_asyncgen_hooks(*before)


async def test_who_has_heard_the_exit_has_ended_the_call(tmp_path: Path) -> None:
    waiter, over = Waiter(), channel(tmp_path / "s.sock")
    async with serve([waiter], tmp_path / "s.sock"):
        with left_to_the_loop() as left:
            async with contextlib.aclosing(ManagerContainers(over).wait("x", "not-running")) as steps:
                assert await anext(steps) is None
                ended = await anext(steps)
                assert ended is not None
                assert ended.exit_code == 3
            assert not left
        await asyncio.wait_for(waiter.left.wait(), 20)
        over.close()
