"""What a shim's end of a stream tells, and how it looks when the shim is killed."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from bulkhead.api.adapters.stdio import ShimStdio
from bulkhead.api.ports.stdio import Streams

STREAMS = Streams(stdin=True, stdout=True, stderr=True, detach_keys="")


class Ears:
    """A `Listener` that knows when it is over."""

    def __init__(self) -> None:
        self.over = asyncio.Event()

    def received(self, data: bytes) -> None: ...

    def ended(self) -> None:
        self.over.set()

    def lost(self) -> None:
        self.over.set()

    def writing_paused(self) -> None: ...

    def writing_resumed(self) -> None: ...


@pytest.mark.parametrize(
    ("unread", "goodbye", "broken"), [(b"", False, True), (b"typed", False, True), (b"typed", True, False)]
)
async def test_a_killed_shim_is_no_end_of_the_process(
    tmp_path: Path, unread: bytes, goodbye: bool, broken: bool
) -> None:
    """Whatever it has not read: with that its death is a reset, without it an end of file."""
    loop = asyncio.get_running_loop()
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        listening.setblocking(False)
        opening = asyncio.create_task(ShimStdio().exec(path, "e", STREAMS))
        shim, _ = await loop.sock_accept(listening)
        with shim:
            assert b'"exec"' in await loop.sock_recv(shim, 4096)
            await loop.sock_sendall(shim, b'{"ok":true}\n')
            end, _ = await opening
            ears = Ears()
            end.listen(ears)
            end.write(unread)
            if goodbye:
                shim.shutdown(socket.SHUT_WR)
                await ears.over.wait()
        await ears.over.wait()
        assert end.broken is broken
        end.close()


async def test_a_shim_whom_very_many_dial_is_dialled_until_there_is_room(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as before:
        listening.bind(path)
        listening.listen(0)
        listening.setblocking(False)
        before.connect(path)
        opening = asyncio.create_task(ShimStdio().exec(path, "e", STREAMS))
        await asyncio.wait([opening], timeout=0.02)
        assert not opening.done()
        (await loop.sock_accept(listening))[0].close()
        shim, _ = await loop.sock_accept(listening)
        with shim:
            assert b'"exec"' in await loop.sock_recv(shim, 4096)
            await loop.sock_sendall(shim, b'{"ok":true}\n')
            (await opening)[0].close()
