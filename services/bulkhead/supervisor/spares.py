"""The supervisor's stock of spare shims, and the zygote that makes them. Both are renewed when they are lost.

A shim that has left its container, and that nothing of it clings to, is a spare again: it says so itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from bulkhead import failpoints
from bulkhead.errors import Internal, Unavailable
from bulkhead.linux import fdpass, process
from bulkhead.shim.custody import MOST_DESCRIPTORS, Estate
from bulkhead.shim.identity import NOTHING_KNOWN, Expected, Identity
from bulkhead.supervisor.protocol import ASK, FREE, MESSAGE_LIMIT, expectation
from bulkhead.supervisor.readiness import readable
from bulkhead.wire.expiry import expire
from bulkhead.wire.status import error_named

# How long a zygote may keep silent and do nothing. On a machine that is starved of CPU one that works is left to it,
# and the one after a lost one gets twice the time, or none would ever be ready.
_SPAWN_TIMEOUT, _LONGEST_TIMEOUT = 10.0, 160.0
# It needs some 50 for its first answer, with all its imports: one that has had as many as this runs in circles.
_MOST_TICKS = 3000
_RESTART_PAUSE = 0.2
# How many that were shims wait beyond those that always do, and for how long nobody may have wanted them (seconds).
_MOST_MORE, _WAIT = 8, 10.0
# How long the first is kept back for those that are taught, some 0.7 s behind it: its shim would be ten times as large.
_HELD = 1.0

log = structlog.get_logger()
Confidant = Callable[[bytes, list[int]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shim:
    """A live shim: a pid is believed only with its start time."""

    pid: int
    start_time: int


class Spare:
    """A shim that waits to be told whose it is; the link to it lasts as long as it may be a spare again.

    The link is watched for good: uvloop registers a descriptor anew with the kernel for each time it is waited for.
    """

    def __init__(self, link: socket.socket, zygote: Zygote) -> None:
        self._link = link
        self.zygote = zygote
        self._answer: asyncio.Future[bytes] | None = None
        # Told of what a shim confides: a message, and the descriptors that came with it.
        self.confidant: Confidant | None = None
        # Whether what it has become will confide.
        self.confides = False
        # Done when it has left its container: with whether it may have another, which one that has ended may not.
        loop = asyncio.get_running_loop()
        self.left: asyncio.Future[bool] = loop.create_future()
        loop.add_reader(link, self._heard)

    async def become(
        self, identity: Identity, estate: Estate | None = None, expected: Expected = NOTHING_KNOWN, *, timeout: float
    ) -> Shim:
        """Make it the shim of `identity`, with duplicates of `estate`, ready for what is `expected`; its sockets listen
        when this returns.

        Raises what the shim raised, Unavailable when the spare is dead; it is let go of then.
        """
        try:
            return await self._become(identity, estate, expected, timeout)
        except BaseException:
            self.discard()
            raise

    async def _become(self, identity: Identity, estate: Estate | None, expected: Expected, timeout: float) -> Shim:
        try:
            label = () if estate is None else (json.dumps(estate.label()),)
            given = () if estate is None else tuple(estate.descriptors.values())
            fdpass.send(self._link, "\0".join((*identity, *label, *expectation(expected))).encode(), given)
            answer = await self._answered(timeout)
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"cannot launch shim: the spare does not answer: {error!r}") from error
        if not answer:
            raise Unavailable("cannot launch shim: the spare died")
        told = msgspec.json.decode(answer)
        if "error" in told:
            raise error_named(told["kind"], told["error"])
        self.confides = told.get("keeps") is True
        return Shim(pid=told["pid"], start_time=told["start_time"])

    async def _answered(self, timeout: float) -> bytes:
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        timer = loop.call_later(timeout, expire, self._answer)
        try:
            return await self._answer
        finally:
            timer.cancel()
            self._answer = None

    def _heard(self) -> None:
        try:
            said, received = fdpass.receive(self._link, MESSAGE_LIMIT, MOST_DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError:
            said, received = b"", []
        if not said:
            asyncio.get_running_loop().remove_reader(self._link)
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(said)
        elif self.confidant is not None and said.startswith(b"{"):
            self.confidant(said, received)
        else:
            _close_all(received)
            self._leave(free=said == FREE)

    def _leave(self, *, free: bool) -> None:
        left, self.confidant = self.left, None
        if free:
            self.left = asyncio.get_running_loop().create_future()
        if not left.done():
            left.set_result(free)

    def waits(self) -> bool:
        """Whether it does: a spare has nothing to say but that it has ended."""
        poll = select.poll()
        poll.register(self._link, select.POLLIN)
        return not self.left.done() and not poll.poll(0)

    def discard(self) -> None:
        """Let go of it: a spare that is nobody's shim ends, a shim when its container is gone."""
        if self._link.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._link)
            self._link.close()
            self._leave(free=False)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def zygote_command(cache: Path) -> tuple[str, ...]:
    """What to execute; the zygote's socket is its last argument. `cache` may be emptied at any time."""
    return (sys.executable, "-P", "-m", "bulkhead.supervisor.zygote", str(cache))


class Zygote:
    """The running zygote."""

    def __init__(self, running: asyncio.subprocess.Process, control: socket.socket) -> None:
        self._process = running
        self._control = control

    @classmethod
    async def start(cls, command: Sequence[str]) -> Zygote:
        """Execute it; it answers once its imports are done."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            running = await asyncio.create_subprocess_exec(
                *command,
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        return cls(running, ours)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def spawn(self, timeout: float) -> Spare:
        """One more spare; Internal when the zygote is dead, or stuck: it has done nothing for `timeout` seconds."""
        try:
            self._control.send(ASK, socket.MSG_NOSIGNAL)
            await self._answer(timeout)
            data, descriptors = fdpass.receive(self._control, 16, 1)
        except (OSError, TimeoutError) as error:
            raise Internal(f"cannot fork a spare shim: {error!r}") from error
        if not data or len(descriptors) != 1:
            raise Internal("cannot fork a spare shim: the zygote ended")
        link = socket.socket(fileno=descriptors[0])
        link.setblocking(False)
        return Spare(link, self)

    async def _answer(self, timeout: float) -> None:
        began = seen = process.cpu_ticks(self.pid)
        end = time.monotonic() + _LONGEST_TIMEOUT
        while True:
            try:
                async with asyncio.timeout(timeout):
                    return await readable(self._control)
            except TimeoutError:
                before, seen = seen, process.cpu_ticks(self.pid)
                if seen <= before or seen - began > _MOST_TICKS or time.monotonic() > end:
                    raise

    async def ended(self) -> int:
        """Wait for its end."""
        return await self._process.wait()

    async def stop(self) -> None:
        """Close its socket, which ends it; kill it if that does not."""
        self._control.close()
        try:
            async with asyncio.timeout(1):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


class SparePool:
    """Keeps `size` spares ready while `running`."""

    def __init__(self, size: int, command: Sequence[str]) -> None:
        self._size = size
        self._command = command
        # Who has waited longest is at the left; those at work may come back.
        self._ready: deque[Spare] = deque()
        self._at_work: set[Spare] = set()
        self._changed = asyncio.Event()
        # One of those that wait, of which there is no other then.
        self._held: Spare | None = None
        self._thinning: asyncio.TimerHandle | None = None
        # How many have waited at any time since the last thinning.
        self._least = 0
        self._zygote: Zygote | None = None
        self._patience = _SPAWN_TIMEOUT

    @property
    def zygote_pid(self) -> int | None:
        """Of the zygote that runs now."""
        return self._zygote.pid if self._zygote is not None else None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Entered when a container can be launched. Raises Internal when no spare can be made."""
        async with asyncio.TaskGroup() as group:
            keeper = group.create_task(self._keep())
            begun = group.create_task(self._begun())
            await asyncio.wait((keeper, begun), return_when=asyncio.FIRST_COMPLETED)
            try:
                yield
            finally:
                keeper.cancel()
                begun.cancel()
                for spare in tuple(self._at_work):
                    spare.discard()

    async def take(self, *, timeout: float) -> Spare:
        """A spare, a fresh one if none waits; Unavailable when there is none in time."""
        return self._taken() or await self._awaited(timeout)

    def expect(self, spare: Spare) -> None:
        """It is a shim now, and may be a spare again."""
        self._at_work.add(spare)
        spare.left.add_done_callback(lambda left: self._returned(spare, free=left.result()))

    def _returned(self, spare: Spare, *, free: bool) -> None:
        self._at_work.discard(spare)
        if free:
            failpoints.hit("supervisor.spare.returned")
        # The next zygote's spares may be of other code.
        if free and spare.zygote is self._zygote and len(self._ready) < self._size + _MOST_MORE:
            self._wait(spare)
        else:
            spare.discard()

    def _wait(self, spare: Spare) -> None:
        self._ready.append(spare)
        self._changed.set()
        if self._thinning is None:
            self._thin_later()

    def _thin_later(self) -> None:
        if len(self._ready) > self._size:
            self._least = len(self._ready)
            self._thinning = asyncio.get_running_loop().call_later(_WAIT, self._thin)

    def _thin(self) -> None:
        """Let go of as many as were never wanted, but for those that always wait."""
        self._thinning = None
        for _ in range(min(self._least, len(self._ready)) - self._size):
            self._ready.popleft().discard()
        self._thin_later()

    async def _awaited(self, timeout: float) -> Spare:
        try:
            async with asyncio.timeout(timeout):
                while (spare := self._taken()) is None:
                    await self._change()
                return spare
        except TimeoutError as error:
            self._held = None
            if (spare := self._taken()) is not None:
                return spare
            raise Unavailable(f"cannot launch shim: no spare within {timeout:g} s") from error

    def _taken(self) -> Spare | None:
        """Who was at work last: what it touches is in the caches still."""
        while self._ready and self._ready[-1] is not self._held:
            spare = self._ready.pop()
            self._least = min(self._least, len(self._ready))
            self._changed.set()
            if spare.waits():
                return spare
            spare.discard()
        return None

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _begun(self) -> None:
        while not self._ready:
            await self._change()

    async def _keep(self) -> None:
        """Run zygote after zygote."""
        while True:
            try:
                await self._keep_one()
            except (Internal, OSError) as error:
                log.error("zygote lost", error=str(error))
            await asyncio.sleep(_RESTART_PAUSE)

    async def _keep_one(self) -> None:
        zygote = self._zygote = await Zygote.start(self._command)
        ended = asyncio.ensure_future(zygote.ended())
        stocking = asyncio.ensure_future(self._stock(zygote))
        try:
            await asyncio.wait((ended, stocking), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise Internal(f"the zygote ended with status {ended.result()}")
            await stocking
        finally:
            self._zygote = None
            for task in (ended, stocking):
                task.cancel()
            await asyncio.wait((ended, stocking))
            self._discard_all()
            await zygote.stop()

    async def _stock(self, zygote: Zygote) -> None:
        # The first is there long before the zygote has taught the others, and is not kept beside them.
        untaught = await self._spawned(zygote)
        self._hold(untaught)
        while True:
            while len(self._ready) >= self._size and untaught not in self._ready:
                await self._change()
            spare = await self._spawned(zygote)
            self._patience = _SPAWN_TIMEOUT
            if untaught in self._ready:
                self._ready.remove(untaught)
                untaught.discard()
            self._wait(spare)

    def _hold(self, untaught: Spare) -> None:
        """It waits, and is taken after a while, if there is no other by then."""
        self._held = untaught
        self._wait(untaught)
        asyncio.get_running_loop().call_later(_HELD, self._release, untaught)

    def _release(self, untaught: Spare) -> None:
        if self._held is untaught:
            self._held = None
            self._changed.set()

    async def _spawned(self, zygote: Zygote) -> Spare:
        """One more; until there is one that was taught, each takes twice the patience of the one before."""
        patience = self._patience
        self._patience = min(patience * 2, _LONGEST_TIMEOUT)
        return await zygote.spawn(patience)

    def _discard_all(self) -> None:
        """Of a zygote that is lost. Those at work confide in us still, and end when their containers are gone."""
        if self._thinning is not None:
            self._thinning.cancel()
            self._thinning = None
        for spare in self._ready:
            spare.discard()
        self._ready.clear()
