"""Uploads under way: who is cancelled gives back what he had open."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from unittest.mock import AsyncMock

import pytest

from bulkhead.content.blocking import Blocking
from bulkhead.content.durable import write_all
from bulkhead.content.store import BATCH
from bulkhead.registry.adapters.sessions import Sessions


async def test_a_writer_who_is_cancelled_while_his_last_batch_is_written_keeps_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another request continues his upload, and the disk is slow."""
    begun, goes_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slowly(fd: int, data: memoryview) -> None:
        loop.call_soon_threadsafe(begun.set)
        goes_on.wait()
        write_all(fd, data)

    monkeypatch.setattr("bulkhead.registry.adapters.sessions.write_all", slowly)
    with contextlib.closing(Blocking()) as blocking:
        kept = Sessions(tmp_path, blocking, AsyncMock(), ttl=60)
        kept.open()
        upload = await kept.start("some/where", "sha256")

        async def write() -> None:
            async with kept.writing(upload) as writer:
                await writer.write(bytes(BATCH))
                await begun.wait()
                kept._sessions[upload.id].owner = object()

        writing = asyncio.create_task(write())
        await begun.wait()
        await asyncio.sleep(0)
        writing.cancel()
        goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await writing
    assert str(kept.data(upload.id)) not in _open_files()


def _open_files() -> set[str]:
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(descriptor.readlink()))
    return found
