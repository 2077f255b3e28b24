"""Ending and suspending containers: stop, kill, restart, pause, unpause.

Signals are sent inside the container's actor, the waiting happens outside it, so that a second client can always kill
what the first one is patiently stopping. A stop goes on to its end even when the client has left.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import structlog

from bulkhead import failpoints
from bulkhead.errors import (
    BulkheadError,
    Conflict,
    DeadlineExceeded,
    Internal,
    NotFound,
    NotModified,
    ResourceExhausted,
    Unavailable,
)
from bulkhead.manager.actors import Actors
from bulkhead.manager.announcements import of_container
from bulkhead.manager.exits import START_SECONDS, Cause, Exits, Intent, send_directly
from bulkhead.manager.ports import Change, Records, Shim, Shims
from bulkhead.manager.settling import settle_later
from bulkhead.manager.signals import parse_signal
from bulkhead.manager.waiters import Condition, Waiters
from bulkhead.model.container import Container
from bulkhead.model.lifecycle import Event, Phase, apply

log = structlog.get_logger()
_OnContainer = Callable[[str], Awaitable[None]]
SIGNAL_SECONDS = 30.0
KILL_SECONDS = 10.0
FORCE_SECONDS = 2.0
# A shim that does not say how it is within this long is of no use to who wants its container to end.
SHIM_SECONDS = 3.0
# A disk that stands still keeps nobody from being stopped: the record of it follows then.
MARK_SECONDS = 1.0
# A shim that writes there, or an operation that waits for that shim, keeps KILL from nobody for longer.
HURRY_SECONDS = 1.5
# Nor is more done, when it has not ended in spite of KILL, before so long a look at whether a disk stands still.
DISK_SECONDS = 3.0
# Between attempts to have the freezer as the record says.
SETTLE_SECONDS = 1.0


class Unrecorded(Unavailable):
    """What was done cannot be put on record while a disk stands still."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """Ends and suspends containers."""

    records: Records
    shims: Shims
    actors: Actors
    waiters: Waiters
    exits: Exits
    stop_timeout: int
    # Records of signals that went ahead of them.
    _late: set[asyncio.Future[None]] = field(default_factory=set)

    async def stop(self, container_id: str, signal_name: str, timeout: int | None) -> None:
        """Signal, wait, then kill. `timeout` in seconds, -1 = wait for ever, None = the container's own.

        Raises NotModified when it does not run, InvalidArgument for a signal that does not exist, Internal when it
        cannot be killed.
        """
        container = self.records.index.get(container_id)
        number = parse_signal(signal_name or container.spec.stop_signal)
        if container.phase is Phase.RESTARTING:
            container = await self._without_restart(container, "stop")
            if not container.phase.alive:
                return
        if not container.phase.alive:
            raise NotModified(f"container {container_id} is not running")
        await self._end(container, number, self._seconds(container, timeout), Intent.STOP)

    async def restart(self, container_id: str, signal_name: str, timeout: int | None) -> None:
        """Stop if it runs, then start; the exit in between concerns neither policy nor auto-removal."""
        container = self.records.index.get(container_id)
        number = parse_signal(signal_name or container.spec.stop_signal)
        with self.exits.expected(container_id, Intent.RESTART):
            container = await self._without_restart(container, "stop")
            if container.phase.alive:
                await self._end(container, number, self._seconds(container, timeout), Intent.RESTART)
            await self.actors.perform(
                container_id, "start", lambda: self.exits.start(container_id, by_user=True), seconds=START_SECONDS
            )
        after = self.records.index.get(container_id)
        await self.records.commit(Change(events=(of_container(after, "restart"),)))

    async def kill(self, container_id: str, ref: str, signal_name: str) -> None:
        """Send a signal; KILL waits for the end. Raises Conflict, with Docker's text, when it does not run."""
        container = self.records.index.get(container_id)
        number = parse_signal(signal_name, signal.SIGKILL)
        if container.phase is Phase.RESTARTING:
            container = await self._without_restart(container, "kill")
            if not container.phase.alive:
                return
        if not container.phase.alive:
            raise Conflict(f"Cannot kill container: {ref}: Container {container_id} is not running")
        manual = number in (signal.SIGKILL, parse_signal(container.spec.stop_signal))
        if number != signal.SIGKILL:
            await self._signal(container_id, number, manual=manual)
            return
        await self._kill(container)

    async def end_for_removal(self, container_id: str) -> None:
        """KILL, and wait until it has ended; fine when it has already. Raises Internal, Unrecorded."""
        container = await self._without_restart(self.records.index.get(container_id), "kill")
        if container.phase.alive:
            try:
                await self._kill(container)
            except Unrecorded:
                raise
            except (Internal, Unavailable, DeadlineExceeded):
                await self._abandon(container)

    async def _without_restart(self, container: Container, name: str) -> Container:
        """What it is once the restart that it waits for is cancelled: it runs when the restart was faster."""
        while container.phase is Phase.RESTARTING:
            await self._perform(container.id, name, self.exits.cancel_restart)
            if not self.records.index.knows(container.id):
                break
            container = self.records.index.get(container.id)
        return container

    async def pause(self, container_id: str) -> None:
        """Freeze every process. Raises Conflict with Docker's texts."""

        async def work() -> None:
            container = self.records.index.get(container_id)
            _check_pausable(container)
            shim = await self.shims.ensure(container_id)
            await self._ask(container, shim.pause)
            failpoints.hit("manager.pause.frozen")
            await self._move(container, Event.PAUSED, "pause", shim.resume)

        await self.actors.perform(container_id, "pause", work, seconds=SIGNAL_SECONDS)

    async def unpause(self, container_id: str) -> None:
        """Thaw. Raises Internal (500, as Docker) when it is not paused."""

        async def work() -> None:
            container = self.records.index.get(container_id)
            if container.phase is not Phase.PAUSED:
                raise Internal(f"Container {container_id} is not paused")
            shim = await self._thawed(container)
            await self._move(container, Event.RESUMED, "unpause", shim.pause)

        await self.actors.perform(container_id, "unpause", work, seconds=SIGNAL_SECONDS)

    async def _thawed(self, container: Container) -> Shim:
        shim = await self.shims.ensure(container.id)
        await self._ask(container, shim.resume)
        failpoints.hit("manager.unpause.thawed")
        return shim

    async def _ask(self, container: Container, ask: Callable[[], Awaitable[None]]) -> None:
        """A shim that stood still may do it long after who asked was told that it has failed: that is taken back."""
        try:
            await ask()
        except (DeadlineExceeded, asyncio.CancelledError):
            self.actors.own(self._take_back(container), f"settle {container.id[:12]}")
            raise

    async def _take_back(self, container: Container) -> None:
        while self._is_run_of(container):
            with contextlib.suppress(BulkheadError):
                # Outside the actor: others need not wait for a shim that stands still.
                await (await self.shims.ensure(container.id)).state()
                work = partial(self._settle, container)
                await self.actors.perform(container.id, "settle", work, seconds=SIGNAL_SECONDS)
                return
            await asyncio.sleep(SETTLE_SECONDS)

    async def _settle(self, container: Container) -> None:
        """The kernel as the record says."""
        if not self._is_run_of(container):
            return
        shim = await self.shims.ensure(container.id)
        now, recorded = (await shim.state()).phase, self.records.index.get(container.id).phase
        if now == "paused" and recorded is Phase.RUNNING:
            await shim.resume()
        elif now == "running" and recorded is Phase.PAUSED:
            await shim.pause()

    def _is_run_of(self, container: Container) -> bool:
        if not self.records.index.knows(container.id):
            return False
        current = self.records.index.get(container.id)
        return current.phase.alive and current.started_at == container.started_at

    async def _move(self, container: Container, event: Event, action: str, undo: Callable[[], Awaitable[None]]) -> None:
        try:
            await self.records.commit(_moved(container, event, action))
        except BulkheadError:
            # Who asked is told that it has failed, and the record says the same: so it must be.
            with contextlib.suppress(BulkheadError):
                await undo()
            raise
        except asyncio.CancelledError:
            settle = partial(self._settle, container)
            settle_later(self.records, self.actors, container.id, settle, seconds=SIGNAL_SECONDS)
            raise
        failpoints.hit("manager.pause.recorded")

    async def _end(self, container: Container, number: int, seconds: float | None, intent: Intent) -> None:
        """Bring a run to its end: `number`, then KILL, then force."""
        with self.exits.expected(container.id, intent):
            with self.waiters.armed(container, Condition.NEXT_EXIT) as ended:
                await self._signal(container.id, number, manual=intent is Intent.STOP)
                if await _within(ended, seconds):
                    return
                with self.exits.blamed(container.id, Cause.TIMEOUT):
                    if await self._ends_by_kill(container, ended, manual=intent is Intent.STOP):
                        return
            await self._force(container)

    async def _kill(self, container: Container) -> None:
        """KILL, and wait for the end."""
        with self.exits.expected(container.id, Intent.KILL):
            with self.waiters.armed(container, Condition.NEXT_EXIT) as ended:
                if await self._ends_by_kill(container, ended, manual=True):
                    return
            await self._force(container)

    async def _ends_by_kill(self, container: Container, ended: asyncio.Future[Any], *, manual: bool) -> bool:
        """Whether KILL brings it about, in time."""
        hurry = asyncio.get_running_loop().call_later(HURRY_SECONDS, send_directly, container, signal.SIGKILL)
        try:
            await self._unwedge(container.id)
            await self._signal(container.id, signal.SIGKILL, manual=manual)
        finally:
            hurry.cancel()
        return await _within(ended, KILL_SECONDS)

    async def _unwedge(self, container_id: str) -> None:
        """End a shim that is stopped or stuck: another one adopts the container, and what waited for it goes on.

        Outside the actor, whose operations may be those that wait for this shim.
        """
        shim = await self.shims.live(container_id)
        if shim is None:
            return
        try:
            async with asyncio.timeout(SHIM_SECONDS):
                await shim.state()
        except (TimeoutError, DeadlineExceeded):
            log.warning("a shim does not answer: ended", container=container_id)
            await self.shims.break_off(container_id)
        except BulkheadError:
            return

    async def _abandon(self, container: Container) -> None:
        """Its shim is of no use: end that too, and whatever is in the container's cgroup. Raises Internal."""
        with self.waiters.armed(self.records.index.get(container.id), Condition.NOT_RUNNING) as ended:
            await self._perform(container.id, "end", self.shims.discard)
            if not await _within(ended, KILL_SECONDS):
                raise Internal(f"cannot remove container {container.name}: its end could not be confirmed")

    async def _force(self, container: Container) -> None:
        """Kill whatever is in the container's cgroup. Raises Internal when that is not the end either; Unrecorded."""
        await self._check_disk(container)
        current = self.records.index.get(container.id)
        with self.waiters.armed(current, Condition.NOT_RUNNING) as ended:
            if current.phase.alive and current.started_at == container.started_at:
                await self._signal(container.id, signal.SIGKILL, manual=True, everyone=True)
                if not await _within(ended, FORCE_SECONDS):
                    raise Internal(
                        f"cannot stop container: {container.name}: tried to kill container, but did not receive an "
                        "exit event"
                    )

    async def _check_disk(self, container: Container) -> None:
        """No end is heard of while a disk stands still, whatever is done to bring it about."""
        written = asyncio.ensure_future(self.records.written())
        written.add_done_callback(_heard)
        if not await _within(written, DISK_SECONDS):
            raise Unrecorded(
                f"cannot stop container: {container.name}: it was sent KILL, and its end cannot be recorded: "
                "a disk does not answer"
            )

    async def _signal(self, container_id: str, number: int, *, manual: bool, everyone: bool = False) -> None:
        """Send a signal in the actor. `manual` marks the container as stopped by its user first."""

        async def work() -> None:
            container = self.records.index.get(container_id)
            if container.phase is Phase.RESTARTING:
                await self.exits.cancel_restart(container_id)
                return
            if not container.phase.alive:
                return
            marked = await self._mark(container, number, manual=manual)
            failpoints.hit("manager.stop.marked")
            await self._deliver(container, number, everyone)
            failpoints.hit("manager.stop.signalled")
            if container.phase is Phase.PAUSED and _asks_to_end(container, number):
                await self._wake(marked)

        await self.actors.perform(container_id, "signal", work, seconds=SIGNAL_SECONDS)

    async def _deliver(self, container: Container, number: int, everyone: bool) -> None:
        """By the shim, which thaws what it kills; by ourselves when the shim is dead or silent."""
        try:
            shim = await self.shims.ensure(container.id)
            await shim.kill(number, everyone=everyone)
        except (NotFound, Conflict):
            return  # it has just ended: its exit is on the way
        except (Unavailable, DeadlineExceeded) as error:
            log.warning("cannot signal by the shim", container=container.id, reason=str(error))
            if not send_directly(container, number):
                raise

    async def _wake(self, container: Container) -> None:
        """Who is asked to end must be able to hear it. One that cannot be woken is killed in the end."""
        try:
            await self._thawed(container)
        except (NotFound, Conflict):
            return  # it has just ended
        except (Unavailable, DeadlineExceeded) as error:
            log.warning("cannot thaw what is asked to end", container=container.id, reason=str(error))
            return
        await self._record_in_time(container.id, _moved(container, Event.RESUMED, "unpause"))

    async def _mark(self, container: Container, number: int, *, manual: bool) -> Container:
        marked = replace(container, stopped_by_user=container.stopped_by_user or manual)
        events = (of_container(container, "kill", {"signal": str(int(number))}),)
        await self._record_in_time(container.id, Change(update=marked, events=events))
        return marked

    async def _record_in_time(self, container_id: str, change: Change) -> None:
        recorded = asyncio.ensure_future(self._record_signal(container_id, change))
        recorded.add_done_callback(_heard)
        # One who has waited for it is enough.
        if await _within(recorded, 0.0 if self._late else MARK_SECONDS):
            await recorded
            return
        log.warning("a signal goes ahead of its record: a disk stands still", container=container_id)
        self._late.add(recorded)
        recorded.add_done_callback(self._late.discard)

    async def _record_signal(self, container_id: str, change: Change) -> None:
        try:
            await self.records.commit(change)
        except ResourceExhausted as error:
            # A full disk must not keep anybody from stopping what fills it; the operation's intent is known in memory.
            log.warning("cannot record a signal", container=container_id, reason=str(error))

    async def _perform(self, container_id: str, name: str, work: _OnContainer) -> None:
        await self.actors.perform(container_id, name, lambda: work(container_id), seconds=SIGNAL_SECONDS)

    def _seconds(self, container: Container, timeout: int | None) -> float | None:
        told = timeout if timeout is not None else container.spec.stop_timeout
        seconds = self.stop_timeout if told is None else told
        return None if seconds < 0 else float(seconds)


async def _within(ended: asyncio.Future[Any], seconds: float | None) -> bool:
    """Whether the end comes within `seconds` (None: wait for ever)."""
    done, _ = await asyncio.wait([ended], timeout=seconds)
    return bool(done)


def _heard(recorded: asyncio.Future[None]) -> None:
    if not recorded.cancelled():
        recorded.exception()


def _moved(container: Container, event: Event, action: str) -> Change:
    # Docker calls a container unhealthy while nobody probes it.
    health = container.health.stopped() if container.health is not None else None
    moved = replace(container, phase=apply(container.phase, event), health=health)
    return Change(update=moved, events=(of_container(moved, action),))


def _asks_to_end(container: Container, number: int) -> bool:
    """As Docker has it: its own signal, and any where it has none. KILL is heard without being thawed for it."""
    if number == signal.SIGKILL:
        return False
    return not container.spec.stop_signal or number == parse_signal(container.spec.stop_signal)


def _check_pausable(container: Container) -> None:
    match container.phase:
        case Phase.RUNNING:
            return
        case Phase.PAUSED:
            raise Conflict(f"Container {container.id} is already paused")
        case Phase.RESTARTING:
            raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
        case _:
            raise Conflict(f"Container {container.id} is not running")
