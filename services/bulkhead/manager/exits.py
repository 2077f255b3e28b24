"""What happens when a container ends: the fact is recorded, announced, and followed by the restart policy.

One task per running container waits for its shim's word. When the shim itself dies, another one adopts the container;
when nobody can say how a process ended, its exit code is 255.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import msgspec
import structlog

from bulkhead import failpoints
from bulkhead.errors import BulkheadError, Conflict, DeadlineExceeded, NotFound, may_pass
from bulkhead.linux import process
from bulkhead.manager import announcements, health
from bulkhead.manager.actors import Actors
from bulkhead.manager.boot_order import BootOrder
from bulkhead.manager.bundles import read_json
from bulkhead.manager.networking import Networking
from bulkhead.manager.new_execs import NewExecs
from bulkhead.manager.ports import Change, Exit, Records, Shim, Shims, ShimState, SupervisorAway
from bulkhead.manager.removal import Removal
from bulkhead.manager.resolving import Resolving
from bulkhead.manager.starting import Starting
from bulkhead.manager.volumes.catalogue import Volumes
from bulkhead.manager.waiters import Waiters
from bulkhead.model.container import Container
from bulkhead.model.events import Event as EngineEvent
from bulkhead.model.ids import short
from bulkhead.model.instance import Instance
from bulkhead.model.lifecycle import Event, Phase, apply
from bulkhead.model.losses import Loss, Lost, restated
from bulkhead.model.replacing import replace
from bulkhead.model.restart import LONGEST_DELAY_MS, delay_after_exit

log = structlog.get_logger()
UNKNOWN_EXIT = 255
FINISH_SECONDS = 60.0
# The intent of a commit: its container is suspended meanwhile.
COMMIT = "commit"
START_SECONDS = 120.0
_RETRY_FIRST, _RETRY_LONGEST = 0.1, 5.0
# Who asked for a start hears of it so many turns of the loop later; that it has ended is nobody's news before.
_TURNS_TO_ANSWER = 3
# How often in a row a dead process without an exit record may find no supervisor, which knows more.
_PATIENCE = 6
# How often shims may come that are told what the supervisor knows, and die in their turn.
_PATIENCE_WITH_SHIMS = 60


class Cause(Enum):
    """What brings a run to its end when it is not its own doing; the values are on record."""

    USER = "user"
    TIMEOUT = "timeout"
    HEALTH = "health"
    OOM = "oom"


class Intent(Enum):
    """What a user's operation under way makes of the exit it brings about."""

    STOP = "stop"
    KILL = "kill"
    RESTART = "restart"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exits:
    """Watches the running containers and finishes those that end."""

    instance: Instance
    records: Records
    shims: Shims
    networking: Networking
    actors: Actors
    waiters: Waiters
    starting: Starting
    removal: Removal
    volumes: Volumes
    resolving: Resolving
    boot_order: BootOrder
    new_execs: NewExecs
    _intents: dict[str, Intent] = field(default_factory=dict)
    _timers: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _doomed: Counter[str] = field(default_factory=Counter)
    _causes: dict[str, Cause] = field(default_factory=dict)
    # When the runs began whose ends took longer to be finished than an operation may.
    _given_up: dict[str, int] = field(default_factory=dict)
    _followers: list[Callable[[Container], None]] = field(default_factory=list)

    def also(self, follow: Callable[[Container], None]) -> None:
        """Have `follow` called with each container whose run is watched from now on."""
        self._followers.append(follow)

    @contextmanager
    def blamed(self, container_id: str, cause: Cause) -> Iterator[None]:
        """An exit meanwhile is on record as brought about by `cause`; who blames first is right."""
        if container_id in self._causes:
            yield
            return
        self._causes[container_id] = cause
        try:
            yield
        finally:
            del self._causes[container_id]

    @contextmanager
    def expected(self, container_id: str, intent: Intent) -> Iterator[None]:
        """An exit meanwhile is the work of `intent`."""
        before = self._intents.get(container_id)
        self._intents[container_id] = intent
        try:
            yield
        finally:
            if before is None:
                self._intents.pop(container_id, None)
            else:
                self._intents[container_id] = before

    @contextmanager
    def doomed(self, container_id: str) -> Iterator[None]:
        """Nothing starts the container meanwhile: it is being ended to be removed."""
        self._doomed[container_id] += 1
        try:
            yield
        finally:
            self._doomed[container_id] -= 1
            if not self._doomed[container_id]:
                del self._doomed[container_id]

    async def start(self, container_id: str, *, by_user: bool) -> None:
        """Start, and watch what was started. In the container's actor. Raises Conflict for one that is doomed."""
        if container_id in self._doomed:
            raise Conflict("container is marked for removal and cannot be started")
        before = self.records.index.get(container_id)
        try:
            container, shim = await self.starting.start(container_id, by_user=by_user)
        except asyncio.CancelledError:
            # It has been undone, and comes on record for all that if that was on its way: what is asked for now comes
            # after it.
            late = DeadlineExceeded("cannot start container: it took too long")
            self.actors.own(self.starting.note(before, late), f"note {container_id[:12]}")
            raise
        self.watch(container, shim)

    def watch(self, container: Container, shim: Shim | None = None) -> None:
        """Wait for the end of a run, in a task of the actors'. Without `shim` it is looked for."""
        self.actors.own(self._watch(container, shim), f"watch {container.id[:12]}")
        for follow in self._followers:
            follow(container)

    async def finish(self, container_id: str, started_at: int, ended: Exit) -> None:
        """Make the end of the run that began at `started_at` a fact. In the container's actor."""
        container = self.records.index.get(container_id)
        is_resumed = self._given_up.pop(container_id, None) == started_at
        if container.started_at != started_at or not (container.phase.alive or is_resumed):
            return
        intent = self._intents.get(container_id)
        try:
            if container.phase.alive:
                container = await self._record_end(container, ended, intent)
            await self._follow(container, intent)
        except asyncio.CancelledError:
            # What has come on record is not all of it.
            self._given_up[container_id] = started_at
            raise

    async def _record_end(self, container: Container, ended: Exit, intent: Intent | None) -> Container:
        # What the last probes found, if nobody has heard of it yet.
        failpoints.hit("manager.finish.begun")
        container, news = self._probed(container)
        exited = _after(container, ended, intent, self._causes.get(container.id))
        # The port a container published is free, and its end is on record, before anyone hears of it. Durably: its shim
        # has left that to us.
        change = Change(update=exited, events=(*news, *_events(container, exited, intent)))
        recorded = self.records.commit(change, durable=True)
        if container.attachments:
            await asyncio.gather(recorded, self.networking.unplug(container.attachments))
        else:
            await recorded
        failpoints.hit("manager.finish.recorded")
        return exited

    async def _follow(self, exited: Container, intent: Intent | None) -> None:
        """What comes of an end that is on record; again, as far as it has come, is no harm."""
        self.waiters.exited(exited.id, exited.exit_code)
        await _answered()
        await self._let_shim_go(exited.id)
        failpoints.hit("manager.finish.discarded")
        await self.starting.bundles.release(exited)
        failpoints.hit("manager.finish.released")
        await self.volumes.let_go(exited)
        self.resolving.end(exited)
        failpoints.hit("manager.finish.let_go")
        if exited.phase is Phase.RESTARTING:
            self.restart_later(exited.id, exited.restart_delay_ms)
        elif exited.spec.auto_remove and intent is not Intent.RESTART:
            await self._remove_itself(exited)

    def _probed(self, container: Container) -> tuple[Container, tuple[EngineEvent, ...]]:
        if container.health is None:
            return container, ()
        return health.noted(container, health.read(self.instance.container_data(container.id)))

    def note_losses(self, container: Container, losses: tuple[Loss, ...]) -> None:
        """What a shim says that deaths have taken of the run so far; what is new is on record and announced once."""
        if losses:
            self.actors.own(self._note_losses(container, losses), f"losses {container.id[:12]}")

    async def _note_losses(self, of: Container, losses: tuple[Loss, ...]) -> None:
        async def note() -> None:
            container = self.records.index.get(of.id)
            known = replace(container, losses=restated(container.losses, losses))
            same = container.phase.alive and container.started_at == of.started_at
            if same and known.losses != container.losses:
                await self.records.commit(Change(update=known, events=tuple(_news(container, known))))

        with suppress(BulkheadError):
            # The shim says it again at the end.
            await self.actors.perform(of.id, "note losses", note, seconds=FINISH_SECONDS)

    def restart_later(self, container_id: str, delay_ms: int) -> None:
        """Start again after a while, unless `cancel_restart` comes first."""
        task = self.actors.own(self._restart(container_id, delay_ms), f"restart {container_id[:12]}")
        self._timers[container_id] = task

    async def cancel_restart(self, container_id: str) -> None:
        """A user has stopped a container that was about to be restarted. In the container's actor."""
        container = self.records.index.get(container_id)
        if container.phase is not Phase.RESTARTING:
            return
        timer = self._timers.pop(container_id, None)
        if timer is not None:
            timer.cancel()
        stopped = replace(container, phase=apply(container.phase, Event.RESTART_CANCELLED), stopped_by_user=True)
        await self.records.commit(Change(update=stopped))
        self.waiters.exited(container_id, stopped.exit_code)
        if stopped.spec.auto_remove:
            await self._remove_itself(stopped)

    async def _remove_itself(self, container: Container) -> None:
        """`--rm`. Who waits for the removal hears of it even when it fails."""
        try:
            await self.removal.remove(container.id, volumes=True)
        except BulkheadError as error:
            self.waiters.removed(container.id, container.exit_code, str(error))
            raise

    async def _watch(self, container: Container, shim: Shim | None) -> None:
        for _ in range(_TURNS_TO_ANSWER):
            await asyncio.sleep(0)
        ended = await self._outcome(container, shim)
        delay = _RETRY_FIRST
        while True:
            try:
                await self.actors.perform(
                    container.id,
                    "finish",
                    lambda: self.finish(container.id, container.started_at, ended),
                    seconds=FINISH_SECONDS,
                )
                return
            except NotFound:
                return
            except BulkheadError as error:
                log.error("cannot record an exit, trying again", container=container.id, reason=str(error))
            # It may come on record yet.
            await self.records.written()
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY_LONGEST)

    async def _outcome(self, container: Container, shim: Shim | None) -> Exit:
        """How the run ended; returns when it has."""
        delay, silent, died = _RETRY_FIRST, 0, 0
        while True:
            try:
                if shim is None:
                    shim = await self.shims.ensure(container.id)
                    state = await shim.state()
                    delay = _RETRY_FIRST
                    if state.alive:
                        self.note_losses(container, state.losses)
                        await self._agree(container, state, shim)
                        await self._end_commit(container, shim)
                        await self.resolving.begin(container, shim)
                        await self.starting.relaying.mend(self.records.index.get(container.id), shim)
                    if not state.alive and state.exit_code is None:
                        return self._recorded(container) or unknown_exit(container)
                ended = await shim.take_exit()
                # What it told of its execs was told before.
                await self.new_execs.catch_up(short(container.id))
                return ended
            except BulkheadError as error:
                log.warning("lost a shim", container=container.id, reason=str(error))
                shim, away = None, isinstance(error, SupervisorAway)
            recorded = self._recorded(container)
            if recorded is not None:
                return recorded
            if is_alive(container):
                silent = died = 0
            elif away:
                silent += 1
            else:
                silent, died = 0, died + 1
            if silent >= _PATIENCE or died >= _PATIENCE_WITH_SHIMS:
                return unknown_exit(container)
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY_LONGEST)

    async def _agree(self, container: Container, state: ShimState, shim: Shim) -> None:
        """Its last shim may have died between freezing or thawing it and saying so."""
        if self.records.index.get(container.id).phase is _phase_of(state):
            return

        async def work() -> None:
            now, current = await shim.state(), self.records.index.get(container.id)
            same = now.alive and current.phase.alive and current.started_at == container.started_at
            if same and current.phase is not _phase_of(now):
                await self.records.commit(Change(update=replace(current, phase=_phase_of(now))))

        await self.actors.perform(container.id, "rejoin", work, seconds=FINISH_SECONDS)

    async def _end_commit(self, container: Container, shim: Shim) -> None:
        """An earlier manager died with it suspended for a commit, and no shim was there at our start to be told."""
        if self.records.intents.get(container.id) != COMMIT:
            return

        async def work() -> None:
            current = self.records.index.get(container.id)
            if current.phase is Phase.PAUSED:
                await shim.resume()
                current = replace(current, phase=Phase.RUNNING)
            await self.records.commit(Change(update=current, about=container.id, done_of=COMMIT))
            self.records.intents.pop(container.id, None)

        await self.actors.perform(container.id, "resume", work, seconds=FINISH_SECONDS)

    def _recorded(self, container: Container) -> Exit | None:
        """What the shim's exit record says, if it is one of this run."""
        return exit_record(self.instance, container)

    async def _let_shim_go(self, container_id: str) -> None:
        # Of execs whose ids it told a moment ago nobody else knows.
        await self.new_execs.catch_up(short(container_id))
        try:
            await self.shims.discard(container_id)
        except BulkheadError as error:
            log.warning("cannot end a shim", container=container_id, reason=str(error))

    async def _restart(self, container_id: str, delay_ms: int) -> None:
        await self.boot_order.turn(container_id)
        try:
            await self._restart_until_done(container_id, delay_ms)
        finally:
            self.boot_order.done(container_id)

    async def _restart_until_done(self, container_id: str, delay_ms: int) -> None:
        while True:
            await asyncio.sleep(delay_ms / 1000)
            try:
                await self.actors.perform(
                    container_id, "restart", lambda: self._start_again(container_id), seconds=START_SECONDS
                )
                return
            except BulkheadError as error:
                log.warning("cannot restart a container", container=container_id, reason=str(error))
                if not may_pass(error):
                    return
                delay_ms = min(delay_ms * 2, LONGEST_DELAY_MS)

    async def _start_again(self, container_id: str) -> None:
        container = self.records.index.get(container_id)
        if container.phase is not Phase.RESTARTING:
            return
        self._timers.pop(container_id, None)
        await self.start(container_id, by_user=False)


async def _answered() -> None:
    """Let those who have been woken say what they have to: nobody waits for what comes after."""
    # They are the next to run, and what they write goes out at the end of that turn of the loop.
    for _ in range(2):
        await asyncio.sleep(0)


def _phase_of(state: ShimState) -> Phase:
    return Phase.PAUSED if state.phase == "paused" else Phase.RUNNING


def exit_record(instance: Instance, container: Container) -> Exit | None:
    """The exit record of the container's present run, None when there is none."""
    record = read_json(instance.exit_record(container.id))
    if record is None or record.get("pid") != container.pid:
        return None
    code, at, kills = record.get("exit_code"), record.get("exited_at"), record.get("oom_kills", 0)
    if not isinstance(code, int) or not isinstance(at, int) or at < container.started_at:
        return None
    return Exit(
        code=code,
        at=at,
        oom_killed=record.get("oom_killed") is True,
        losses=_losses(record),
        oom_kills=kills if isinstance(kills, int) else 0,
    )


def _losses(record: Mapping[str, Any]) -> tuple[Loss, ...]:
    try:
        return msgspec.convert(record.get("losses", ()), tuple[Loss, ...])
    except msgspec.ValidationError:
        return ()


def is_alive(container: Container) -> bool:
    """Whether the process in the record still exists, as itself and not as another with its pid, as far as is known."""
    try:
        return container.pid > 0 and process.start_time(container.pid) == container.pid_start_time
    except OSError:
        # No descriptor is left to look with. Who is taken for dead would be reported so.
        return True


def send_directly(container: Container, number: int) -> bool:
    """Signal the process in the record, without its shim; whether it was there to be signalled."""
    try:
        descriptor = process.open_verified(container.pid, container.pid_start_time) if container.pid > 0 else None
    except OSError:
        return False
    if descriptor is None:
        return False
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def unknown_exit(container: Container) -> Exit:
    """The end of a run that nobody has seen."""
    now = time.time_ns()
    loss = Loss(what=Lost.EXIT_CODE.value, since=container.started_at, until=now)
    return Exit(code=UNKNOWN_EXIT, at=now, losses=(loss,))


def _cause(container: Container, ended: Exit, intent: Intent | None, cause: Cause | None) -> str:
    if ended.oom_killed:
        return Cause.OOM.value
    if cause is not None:
        return cause.value
    return Cause.USER.value if intent is not None or container.stopped_by_user else ""


def _after(container: Container, ended: Exit, intent: Intent | None, cause: Cause | None = None) -> Container:
    """The record after the exit: one that restarts says in how many milliseconds."""
    exited = replace(
        container,
        phase=apply(container.phase, Event.EXITED),
        pid=0,
        pid_start_time=0,
        exit_code=ended.code,
        oom_killed=ended.oom_killed,
        oom_kills=max(ended.oom_kills, int(ended.oom_killed)),
        finished_at=max(ended.at, container.started_at),
        attachments=(),
        endpoints=tuple(endpoint.unplugged() for endpoint in container.endpoints),
        health=container.health.stopped() if container.health is not None else None,
        ended_by=_cause(container, ended, intent, cause),
        # The record of its signal may not have come through yet, nor ever.
        stopped_by_user=container.stopped_by_user or intent in (Intent.STOP, Intent.KILL),
        losses=restated(container.losses, ended.losses),
    )
    delay = delay_after_exit(
        container.spec.restart_policy,
        exit_code=ended.code,
        stopped_by_user=container.stopped_by_user or intent is not None,
        restart_count=container.restart_count,
        ran_ms=(exited.finished_at - container.started_at) // 1_000_000,
        last_delay_ms=container.restart_delay_ms,
    )
    if delay is None:
        return exited
    phase = apply(exited.phase, Event.RESTART_SCHEDULED)
    count = container.restart_count + 1
    return replace(exited, phase=phase, restart_count=count, restart_delay_ms=delay)


def _events(before: Container, exited: Container, intent: Intent | None) -> tuple[EngineEvent, ...]:
    events = [announcements.of_container(exited, "oom")] if exited.oom_kills > before.oom_kills else []
    events.append(announcements.died(exited))
    events += _news(before, exited)
    plugged = [endpoint for endpoint in before.endpoints if endpoint.address]
    events += [announcements.of_network(before, endpoint, "disconnect") for endpoint in plugged]
    events += announcements.of_mounts(before, "unmount")
    if intent in (Intent.STOP, Intent.RESTART):
        events.append(announcements.of_container(exited, "stop"))
    return tuple(events)


def _news(before: Container, after: Container) -> list[EngineEvent]:
    """Losses that are new or have grown; one is said anew as a whole."""
    return announcements.lost(after, [loss for loss in after.losses if loss not in before.losses])
