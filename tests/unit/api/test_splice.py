"""Two streams joined: who has heard the end of one is not kept waiting while they are put away."""

from __future__ import annotations

import asyncio

from bulkhead.api.connection import Listener
from bulkhead.api.splice import splice


class _End:
    """`connection.End`, which tells its listener what the test says."""

    def __init__(self, told: list[str], name: str) -> None:
        self._told = told
        self._name = name
        self.listener: asyncio.Future[Listener] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.Event()
        self.broken = self.has_ended = False

    def listen(self, listener: Listener) -> None:
        self.listener.set_result(listener)

    def write(self, data: bytes) -> None:
        self._told.append(f"{self._name} gets {data.decode()}")

    def write_eof(self) -> None:
        self.ended.set()

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None:
        self._told.append(f"{self._name} closed")


async def test_what_the_client_asks_next_comes_before_the_streams_are_put_away() -> None:
    told: list[str] = []
    client, process = _End(told, "client"), _End(told, "process")
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(splice(client, process))
        from_process, from_client = await process.listener, await client.listener
        from_process.received(b"output")
        from_process.ended()
        await client.ended.wait()
        # A client that has read the end hangs up and asks on at once, by another connection.
        from_client.ended()
        for _ in range(10):
            await asyncio.sleep(0)
        told.append("asked")
    assert told == ["client gets output", "asked", "process closed", "client closed"]
