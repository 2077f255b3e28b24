"""Two duplex streams joined verbatim: a client of attach or exec, and the shim's stdio socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from bulkhead.api.connection import End

# How long a client may go on sending after the process has ended before its connection is closed.
FAREWELL_SECONDS = 5.0
# Who has heard the end asks for the exit code next, and may ask more: what nobody waits for is done after that.
AFTERWARDS = 0.01


async def splice(
    client: End,
    process: End,
    outward: Callable[[bytes], bytes] = bytes,
    settled: Callable[[], Coroutine[Any, Any, None] | None] | None = None,
) -> None:
    """Carry bytes both ways until the process's stream ends or the client is gone.

    The client's half-close is passed on, and the process's output still reaches it afterwards. A slow end
    pauses the other. A client that is gone costs its stream to the shim, nothing else. What the process says reaches
    the client as `outward` makes it. Its end reaches the client when what
    `settled` gives, if it gives anything, has returned.
    """
    joint = _Joint(client, process)
    try:
        process.listen(_FromProcess(joint, outward))
        client.listen(_FromClient(joint))
        await joint.over.wait()
        settling = settled() if settled is not None else None
        if settling is not None:
            await _either(settling, joint.client_lost.wait())
        # Not closed at once: unread input would turn the client's last read into "connection reset". A client
        # that was held up because the process did not read is heard again, its input thrown away.
        client.write_eof()
        client.resume_reading()
        timer = asyncio.get_running_loop().call_later(FAREWELL_SECONDS, joint.client_ended.set)
        try:
            await joint.client_ended.wait()
        finally:
            timer.cancel()
        await asyncio.sleep(AFTERWARDS)
    finally:
        process.close()
        client.close()


async def _either(*waited: Coroutine[Any, Any, object]) -> None:
    """Until one is done; the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in waited]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    for task in done:
        task.result()


class _Joint:
    def __init__(self, client: End, process: End) -> None:
        self.client = client
        self.process = process
        self.over = asyncio.Event()
        self.client_ended = asyncio.Event()
        self.client_lost = asyncio.Event()


class _FromProcess:
    """Hears the shim, speaks to the client."""

    def __init__(self, joint: _Joint, outward: Callable[[bytes], bytes]) -> None:
        self._joint = joint
        self._outward = outward

    def received(self, data: bytes) -> None:
        self._joint.client.write(self._outward(data))

    def ended(self) -> None:
        self._joint.over.set()

    def lost(self) -> None:
        self._joint.over.set()

    def writing_paused(self) -> None:
        self._joint.client.pause_reading()

    def writing_resumed(self) -> None:
        self._joint.client.resume_reading()


class _FromClient:
    """Hears the client, speaks to the shim."""

    def __init__(self, joint: _Joint) -> None:
        self._joint = joint

    def received(self, data: bytes) -> None:
        if not self._joint.over.is_set():
            self._joint.process.write(data)

    def ended(self) -> None:
        self._joint.client_ended.set()
        if not self._joint.over.is_set():
            self._joint.process.write_eof()

    def lost(self) -> None:
        self._joint.client_lost.set()
        self._joint.client_ended.set()
        self._joint.over.set()

    def writing_paused(self) -> None:
        self._joint.process.pause_reading()

    def writing_resumed(self) -> None:
        self._joint.process.resume_reading()
