"""Who is silent, and who only seems to be since we were busy ourselves."""

from __future__ import annotations

import asyncio
import socket
import time

from bulkhead.manager.roll_call import RollCall
from tests.support.eventually import eventually

PATIENCE = 0.1


async def _asked(roll: RollCall, name: str, answer: socket.socket) -> None:
    with roll.asked(name):
        await asyncio.get_running_loop().sock_recv(answer, 1)
    roll.heard(name)


async def test_who_keeps_silent_is_not_waited_for_and_heard_later() -> None:
    roll = RollCall(patience=PATIENCE)
    roll.expect(["a", "b"])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        asking = asyncio.create_task(_asked(roll, "a", ours))
        await eventually(lambda: roll.silent == 1)
        over = asyncio.create_task(roll.over())
        await asyncio.sleep(0)
        assert not over.done(), "b may answer yet"
        roll.heard("b")
        await over
        theirs.send(b"x")
        await asking
        assert roll.silent == 0


async def test_who_has_answered_while_our_loop_was_held_up_is_not_silent() -> None:
    roll = RollCall(patience=PATIENCE)
    roll.expect(["a"])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        asking = asyncio.create_task(_asked(roll, "a", ours))
        over = asyncio.create_task(roll.over())
        await asyncio.sleep(0)
        theirs.send(b"x")
        time.sleep(2 * PATIENCE)  # noqa: ASYNC251 - as a busy machine holds us up
        await asking
        assert not over.done()
        over.cancel()
