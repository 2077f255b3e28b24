"""A worker that has left in the midst of an archive is no fault of the sender's: its own answer tells why it left."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from bulkhead.api.adapters.inlet import pour
from bulkhead.errors import Unavailable


def test_a_worker_that_leaves_early_breaks_nothing(tmp_path: Path) -> None:
    uvloop.run(_pour_to_who_leaves(str(tmp_path / "inlet.sock")))


async def _pour_to_who_leaves(path: str) -> None:

    async def leave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async def archive() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield bytes(1 << 20)
            await asyncio.sleep(0)

    async with await asyncio.start_unix_server(leave, path):
        pouring = asyncio.ensure_future(pour(path, archive()))
        done, _ = await asyncio.wait([pouring], timeout=0.3)
        pouring.cancel()
        assert not done, pouring.result()


async def test_who_has_no_descriptors_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_: str) -> None:
        raise OSError(errno.EMFILE, "")

    async def archive() -> AsyncIterator[bytes]:
        yield b""

    monkeypatch.setattr(asyncio, "open_unix_connection", refuse)
    with pytest.raises(Unavailable, match="Too many open files"):
        await pour("nowhere", archive())
