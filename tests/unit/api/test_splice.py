"""Two streams joined: who has heard the end of one is not kept waiting while they are put away."""

from __future__ import annotations

import asyncio

from bulkhead.api.duplex import Listener
from bulkhead.api.splice import splice


class _End:
    """`duplex.End`, which tells its listener what the test says."""

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


async def test_the_end_by_a_shims_death_is_told_when_the_process_has_ended() -> None:
    told: list[str] = []
    client, process = _End(told, "client"), _End(told, "process")
    settled = asyncio.Event()

    async def settle() -> None:
        await settled.wait()
        told.append("settled")

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(splice(client, process, settled=settle))
        from_process, from_client = await process.listener, await client.listener
        process.broken = True
        from_process.lost()
        await asyncio.sleep(0)
        assert not client.ended.is_set()
        settled.set()
        await client.ended.wait()
        assert told == ["settled"]
        from_client.ended()


async def test_a_client_that_leaves_is_not_waited_for_by_the_end_of_an_orphan() -> None:
    told: list[str] = []
    client, process = _End(told, "client"), _End(told, "process")
    settling = asyncio.Event()

    async def settle() -> None:
        settling.set()
        try:
            await asyncio.Event().wait()
        finally:
            told.append("given up")

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(splice(client, process, settled=settle))
        from_process, from_client = await process.listener, await client.listener
        process.broken = True
        from_process.lost()
        await settling.wait()
        from_client.lost()
    assert sorted(told) == ["client closed", "given up", "process closed"]


async def test_the_end_reaches_the_client_at_once() -> None:
    """Not after a turn of the loop: that is a client's wait."""
    client, process = _End([], "client"), _End([], "process")
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(splice(client, process))
        from_process, from_client = await process.listener, await client.listener
        from_process.ended()
        assert client.ended.is_set()
        from_client.ended()
