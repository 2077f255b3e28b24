"""The supervisor's stock of spare shims, and the zygote that makes them. Both are renewed when they are lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from bulkhead.errors import Internal, Unavailable
from bulkhead.linux import fdpass, process
from bulkhead.shim.custody import Estate
from bulkhead.shim.identity import Identity
from bulkhead.supervisor.readiness import readable
from bulkhead.supervisor.zygote import ASK, MESSAGE_LIMIT
from bulkhead.wire.status import error_named

# How long a zygote may keep silent and do nothing. On a machine that is starved of CPU one that works is left to it,
# and the one after a lost one gets twice the time, or none would ever be ready.
_SPAWN_TIMEOUT, _LONGEST_TIMEOUT = 10.0, 160.0
# It needs some 50 for its first answer, with all its imports: one that has had as many as this runs in circles.
_MOST_TICKS = 3000
_RESTART_PAUSE = 0.2

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shim:
    """A live shim: a pid is believed only with its start time."""

    pid: int
    start_time: int


class Spare:
    """A forked shim that waits to be told whose it is."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link

    async def become(self, identity: Identity, estate: Estate | None = None, *, timeout: float) -> Shim:
        """Make it the shim of `identity`, with duplicates of `estate`; its sockets listen when this returns.

        Raises what the shim raised, Unavailable when the spare is dead.
        """
        try:
            label = () if estate is None else (json.dumps(estate.label()),)
            given = () if estate is None else tuple(estate.descriptors.values())
            fdpass.send(self._link, "\0".join((*identity, *label)).encode(), given)
            async with asyncio.timeout(timeout):
                await readable(self._link)
            answer = self._link.recv(MESSAGE_LIMIT)
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"cannot launch shim: the spare does not answer: {error!r}") from error
        finally:
            self.discard()
        if not answer:
            raise Unavailable("cannot launch shim: the spare died")
        told = json.loads(answer)
        if "error" in told:
            raise error_named(told["kind"], told["error"])
        return Shim(pid=told["pid"], start_time=told["start_time"])

    def discard(self) -> None:
        """Let go of it; a spare that is nobody's shim ends."""
        self._link.close()


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
        return Spare(link)

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
        self._ready: deque[Spare] = deque()
        self._changed = asyncio.Condition()
        self._zygote: Zygote | None = None
        self._patience = _SPAWN_TIMEOUT

    @property
    def zygote_pid(self) -> int | None:
        """Of the zygote that runs now."""
        return self._zygote.pid if self._zygote is not None else None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Entered when the first spares are ready. Raises Internal when they cannot be made."""
        async with asyncio.TaskGroup() as group:
            keeper = group.create_task(self._keep())
            filled = group.create_task(self._filled())
            await asyncio.wait((keeper, filled), return_when=asyncio.FIRST_COMPLETED)
            try:
                yield
            finally:
                keeper.cancel()
                filled.cancel()

    async def take(self, *, timeout: float) -> Spare:
        """A spare, a fresh one if none waits; Unavailable when there is none in time."""
        try:
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(lambda: self._ready)
                spare = self._ready.popleft()
                self._changed.notify_all()
                return spare
        except TimeoutError as error:
            raise Unavailable(f"cannot launch shim: no spare within {timeout:g} s") from error

    async def _filled(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._ready) >= self._size)

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
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: len(self._ready) < self._size)
            spare = await self._spawned(zygote)
            async with self._changed:
                self._ready.append(spare)
                self._changed.notify_all()

    async def _spawned(self, zygote: Zygote) -> Spare:
        patience = self._patience
        self._patience = min(patience * 2, _LONGEST_TIMEOUT)
        spare = await zygote.spawn(patience)
        self._patience = _SPAWN_TIMEOUT
        return spare

    def _discard_all(self) -> None:
        while self._ready:
            self._ready.popleft().discard()
