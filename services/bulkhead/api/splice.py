"""Two duplex streams joined verbatim: a client of attach or exec, and the shim's stdio socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from bulkhead.api.duplex import End
from bulkhead.api.ports.stdio import ProcessEnd

# How long a client may go on sending after the process has ended before its connection is closed.
FAREWELL_SECONDS = 5.0
# Who has heard the end asks for the exit code next, and may ask more: what nobody waits for is done after that.
AFTERWARDS = 0.01


async def splice(
    client: End,
    process: ProcessEnd,
    outward: Callable[[bytes], bytes] = bytes,
    settled: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> None:
    """Carry bytes both ways until the process's stream ends or the client is gone.

    The client's half-close is passed on, and the process's output still reaches it afterwards. A slow end
    pauses the other. A client that is gone costs its stream to the shim, nothing else. What the process says reaches
    the client as `outward` makes it. Its end reaches the client at once; one by the shim's death when `settled`, if it
    is given, has returned.
    """
    joint = _Joint(client, process, waits=settled is not None)
    try:
        process.listen(_FromProcess(joint, outward))
        client.listen(_FromClient(joint))
        await joint.over
        if joint.unsettled and settled is not None:
            await _unless(settled(), joint.done)
            joint.say_end()
        timer = asyncio.get_running_loop().call_later(FAREWELL_SECONDS, _settle, joint.done)
        try:
            await joint.done
        finally:
            timer.cancel()
    finally:
        process.close()
        client.close()


async def _unless(wanted: Coroutine[Any, Any, object], over: asyncio.Future[None]) -> None:
    """Until `wanted` has returned, or is cancelled because nobody waits for it any more."""
    task = asyncio.ensure_future(wanted)
    try:
        await asyncio.wait((task, over), return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
    if task.done():
        task.result()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class _Joint:
    """What both ends know: `over` once the process's stream has ended or the client is gone, `done` when all is.

    `waits`: a stream that has ended by its shim's death is left `unsettled`, its end untold.
    """

    def __init__(self, client: End, process: ProcessEnd, *, waits: bool) -> None:
        self.client = client
        self.process = process
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[None] = self._loop.create_future()
        self.done: asyncio.Future[None] = self._loop.create_future()
        self.unsettled = False
        self._waits = waits
        self._said_end = False
        self._client_ended = False

    def end(self) -> None:
        """The process has said all, which the client is told before anything else is done."""
        if not self.over.done():
            self.over.set_result(None)
            self.unsettled = self._waits and self.process.broken
            if not self.unsettled:
                self.say_end()

    def say_end(self) -> None:
        """Not by closing: unread input would turn the client's last read into "connection reset".

        A client that was held up because the process did not read is heard again, its input thrown away.
        """
        self._said_end = True
        self.client.write_eof()
        self.client.resume_reading()
        self._part()

    def end_client(self) -> None:
        """The client will say no more."""
        self._client_ended = True
        if not self.over.done():
            self.process.write_eof()
        self._part()

    def _part(self) -> None:
        if self._said_end and self._client_ended:
            self._loop.call_later(AFTERWARDS, _settle, self.done)

    def lose_client(self) -> None:
        """The client is gone."""
        _settle(self.over)
        _settle(self.done)


class _FromProcess:
    """Hears the shim, speaks to the client."""

    def __init__(self, joint: _Joint, outward: Callable[[bytes], bytes]) -> None:
        self._joint = joint
        self._outward = outward

    def received(self, data: bytes) -> None:
        self._joint.client.write(self._outward(data))

    def ended(self) -> None:
        self._joint.end()

    def lost(self) -> None:
        self._joint.end()

    def writing_paused(self) -> None:
        self._joint.client.pause_reading()

    def writing_resumed(self) -> None:
        self._joint.client.resume_reading()


class _FromClient:
    """Hears the client, speaks to the shim."""

    def __init__(self, joint: _Joint) -> None:
        self._joint = joint

    def received(self, data: bytes) -> None:
        if not self._joint.over.done():
            self._joint.process.write(data)

    def ended(self) -> None:
        self._joint.end_client()

    def lost(self) -> None:
        self._joint.lose_client()

    def writing_paused(self) -> None:
        self._joint.process.pause_reading()

    def writing_resumed(self) -> None:
        self._joint.process.resume_reading()
