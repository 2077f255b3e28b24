"""From records, shims and exit records to one truth, before anything is served. A second run changes nothing.

For each container: what runs is watched again (same process, same start), what ended meanwhile is finished with the
code on record, a start that was under way is undone, a restart that was due is scheduled. Then whatever no record owns
is swept.

All of it for one container is the first operation of its actor: whoever wants something of it waits for that, and for
no other container. A shim that keeps silent keeps nobody from being served: its container is shown as it is on record,
until the shim answers or, past a longer time, is left to its watcher.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import structlog

from bulkhead.content.blocking import to_its_end
from bulkhead.errors import BulkheadError
from bulkhead.manager import shared_memory
from bulkhead.manager.actors import Actors
from bulkhead.manager.exits import COMMIT, FINISH_SECONDS, Exits, exit_record, is_alive, unknown_exit
from bulkhead.manager.ports import Change, Exit, Groups, KnownExec, Records, Shim, Shims, ShimState, Trash
from bulkhead.manager.roll_call import RollCall
from bulkhead.manager.volumes.catalogue import Volumes
from bulkhead.model.container import Container
from bulkhead.model.instance import Instance
from bulkhead.model.lifecycle import Phase
from bulkhead.model.restart import starts_at_boot

log = structlog.get_logger()
BOOT_KEY = "boot_id"
UNKNOWN_EXIT = 255
_AT_ONCE = 16
# For a shim's answer before others are served without it; before its container is left to its watcher.
_PATIENCE_SECONDS, _BUDGET_SECONDS = 0.4, 5.0
# Past this we serve, whatever is not done.
_LONGEST_SECONDS = 5.0
# One container, of many that want the disk at the same time.
_ONE_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Strays:
    """Run and data directories that may belong to no container."""

    runs: list[Path]
    data: list[Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """Makes the records true again."""

    instance: Instance
    records: Records
    shims: Shims
    actors: Actors
    exits: Exits
    trash: Trash
    volumes: Volumes
    boot_id: str
    groups: Groups
    apply_limits: Callable[[Container], Awaitable[None]]
    adopt_execs: Callable[[Container, Sequence[KnownExec]], None]
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))
    _roll: RollCall = field(default_factory=lambda: RollCall(patience=_PATIENCE_SECONDS))

    async def recover(self) -> None:
        """Run once, before serving. When it returns, what is not known yet is only known to shims that keep silent."""
        rebooted = await self._has_rebooted()
        if rebooted:
            self.exits.boot_order.expect(each.id for each in self.records.index if _starts_at_boot(each))
        await self._recover_volumes()
        strays = await asyncio.to_thread(self._strays)
        self._roll.expect(each.id for each in self.records.index)
        whole = self.actors.own(self._recover_all(strays, rebooted=rebooted), "recovery")
        over = asyncio.ensure_future(self._roll.over())
        try:
            await asyncio.wait((whole, over), timeout=_LONGEST_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.cancel()
        if whole.done():
            whole.result()
        else:
            log.warning("serving before every shim has answered", silent=self._roll.silent)

    async def _recover_all(self, strays: _Strays, *, rebooted: bool) -> None:
        await asyncio.gather(*(self._recover_in_turn(each, rebooted=rebooted) for each in self.records.index))
        await self._sweep(strays)
        log.info("recovered", containers=len(self.records.index))

    async def _recover_in_turn(self, container: Container, *, rebooted: bool) -> None:
        async def work() -> None:
            await self._recover_one(container, rebooted=rebooted)

        try:
            await self.actors.perform(container.id, "recover", work, seconds=_ONE_SECONDS)
        except BulkheadError as error:
            log.error("cannot recover a container", container=container.id, reason=str(error))
            self._watch_on(container)
        finally:
            self._roll.heard(container.id)

    def _watch_on(self, before: Container) -> None:
        """What could not be written down now, for want of disk, say, is when it can."""
        container = self.records.index.get(before.id) if self.records.index.knows(before.id) else before
        if container.phase.alive and container.started_at == before.started_at:
            self.exits.watch(container)

    async def _has_rebooted(self) -> bool:
        before = await self.records.meta(BOOT_KEY)
        if before != self.boot_id:
            await self.records.set_meta(BOOT_KEY, self.boot_id)
        return before is not None and before != self.boot_id

    async def _recover_one(self, container: Container, *, rebooted: bool) -> None:
        """In the container's actor, before all else that is wanted of it."""
        if not container.phase.alive:
            async with self._turns:
                await self._recover_idle(container, rebooted=rebooted)
            return
        shim, state = await self._ask(container)
        self.adopt_execs(container, () if state is None else state.execs)
        if state is not None and state.alive and state.pid == container.pid:
            await self._rejoin(container, shim, state)
        else:
            await self._recover_ended(container, state, rebooted=rebooted)

    async def _recover_ended(self, container: Container, state: ShimState | None, *, rebooted: bool) -> None:
        """The record says that it runs, its shim says no, or nothing."""
        ended = self._how_it_ended(container, state)
        if ended is not None and ended.code == UNKNOWN_EXIT and state is None and not rebooted:
            # Another shim may find out what became of it, and may have to read its output to the end first.
            shim, state = await self._adopted(container)
            if state is None or (state.alive and state.pid == container.pid):
                self.exits.watch(container, shim)
                return
            ended = self._how_it_ended(container, state)
        if ended is None:
            # Its process lives, its shim is dead or silent: the watcher gets it a new one, or waits.
            await self._apply_limits(container)
            self.exits.watch(container)
            return
        if rebooted and starts_at_boot(container.spec.restart_policy, was_alive=True, stopped_by_user=False):
            container = await self._unmark(container)
        async with self._turns:
            await self.exits.finish(container.id, container.started_at, ended)

    async def _rejoin(self, container: Container, shim: Shim | None, state: ShimState) -> None:
        phase = Phase.PAUSED if state.phase == "paused" else Phase.RUNNING
        if self.records.intents.get(container.id) == COMMIT and shim is not None:
            # The manager died with the container suspended for a commit: its user never asked for that.
            if phase is Phase.PAUSED:
                await shim.resume()
                phase = Phase.RUNNING
            await self.records.commit(Change(about=container.id, done_of=COMMIT))
            self.records.intents.pop(container.id, None)
        if phase is not container.phase:
            container = replace(container, phase=phase)
            await self.records.commit(Change(update=container))
        await self._apply_limits(container)
        if shim is not None:
            try:
                await self.exits.starting.relaying.mend(container, shim)
            except BulkheadError as error:
                log.warning("cannot relay ports", container=container.id, reason=str(error))
        self.exits.note_losses(container, state.losses)
        self.exits.watch(container, shim)

    async def _apply_limits(self, container: Container) -> None:
        """Those that are on record, of which a crash kept the kernel from hearing. No shim is needed for it."""
        if container.unapplied:
            try:
                await self.apply_limits(container)
            except (OSError, ValueError, BulkheadError) as error:
                log.warning("cannot apply limits", container=container.id, reason=str(error))

    async def _recover_idle(self, container: Container, *, rebooted: bool) -> None:
        """The record says that it does not run."""
        await self._undo_start(container)
        await self.exits.starting.bundles.release(container)
        if container.phase is Phase.RESTARTING:
            self.exits.restart_later(container.id, container.restart_delay_ms)
        elif container.spec.auto_remove:
            # It has run, or was to run: a start may have come that nothing on disk tells of, and who asked for it waits
            # for the removal. As with Docker's daemon, one that is merely created goes too.
            await self.exits.removal.remove(container.id, volumes=True)
        elif rebooted and _starts_again(container):
            self.actors.own(self._start(container.id), f"start {container.id[:12]}")

    async def _undo_start(self, container: Container) -> None:
        """End what a start or an exit that a crash cut short has left, and a shim that was launched ahead.

        One that somebody is attached to stays.
        """
        begun = container.id in self.records.intents
        shim, state = await self._ask(container)
        if begun or (state is not None and (state.phase != "new" or state.unattended)):
            await self.shims.discard(container.id)
        elif shim is not None:
            await self.shims.forget(container.id)
        if begun:
            await self.records.commit(Change(about=container.id, done=True))

    async def _start(self, container_id: str) -> None:
        await self.exits.boot_order.turn(container_id)
        try:
            with contextlib.suppress(BulkheadError):
                await self.actors.perform(
                    container_id, "start", lambda: self.exits.start(container_id, by_user=False), seconds=FINISH_SECONDS
                )
        finally:
            self.exits.boot_order.done(container_id)

    async def _unmark(self, container: Container) -> Container:
        """It was stopped by the reboot, not by its user."""
        unmarked = replace(container, stopped_by_user=False)
        await self.records.commit(Change(update=unmarked))
        return unmarked

    async def _ask(self, container: Container) -> tuple[Shim | None, ShimState | None]:
        """The container's shim, if one listens, and what it says, if it does in time."""
        try:
            with self._roll.asked(container.id):
                async with asyncio.timeout(_BUDGET_SECONDS):
                    shim = await self.shims.live(container.id)
                    return shim, await shim.state(execs=True) if shim is not None else None
        except (TimeoutError, BulkheadError) as error:
            log.warning("a shim does not answer", container=container.id, reason=str(error))
            return None, None

    async def _adopted(self, container: Container) -> tuple[Shim | None, ShimState | None]:
        """A new shim that adopts what the old one has left, and what it says; None when there is none in time."""
        try:
            with self._roll.asked(container.id):
                async with asyncio.timeout(_BUDGET_SECONDS):
                    shim = await self.shims.ensure(container.id)
                    return shim, await shim.state()
        except (TimeoutError, BulkheadError):
            return None, None

    def _how_it_ended(self, container: Container, state: ShimState | None) -> Exit | None:
        """From the shim, the exit record, or the absence of the process; None while that lives."""
        if state is not None and state.exit_code is not None and state.pid in (0, container.pid):
            return Exit(
                code=state.exit_code,
                at=state.exited_at,
                oom_killed=state.oom_killed,
                losses=state.losses,
                oom_kills=state.oom_kills,
            )
        recorded = exit_record(self.instance, container)
        if recorded is not None:
            return recorded
        return None if is_alive(container) else unknown_exit(container)

    async def _recover_volumes(self) -> None:
        try:
            await self.volumes.recover()
        except BulkheadError as error:
            log.warning("cannot sweep volumes", reason=str(error))

    def _strays(self) -> _Strays:
        """Listed while nobody makes a container: its directory is there before its record. Blocking."""
        return _Strays(
            runs=_directories(self.instance.run / "containers"),
            data=_directories(self.instance.data / "containers"),
        )

    async def _sweep(self, strays: _Strays) -> None:
        """Take away what no record owns: shims, directories, cgroups."""
        index = self.records.index
        for run in strays.runs:
            if not index.has_short(run.name):
                await self._sweep_run(run)
        for data in strays.data:
            if not index.knows(data.name):
                with contextlib.suppress(BulkheadError):
                    shared_memory.unmount(data / "shm")
                self._throw(data)
        for name in sorted(await asyncio.to_thread(self.groups.names)):
            if not index.knows(name):
                await self._sweep_group(name)
            elif not index.get(name).phase.alive:
                # In its turn: its policy may be starting it at this moment.
                work = partial(self._sweep_group, name)
                with contextlib.suppress(BulkheadError):
                    await self.actors.perform(name, "sweep", work, seconds=FINISH_SECONDS)

    async def _sweep_group(self, name: str) -> None:
        if self.records.index.knows(name) and self.records.index.get(name).phase.alive:
            return
        try:
            await to_its_end(self.groups.remove, name)
        except BulkheadError as error:
            log.warning("cannot sweep a cgroup", name=name, reason=str(error))

    async def _sweep_run(self, run: Path) -> None:
        data = [each for each in _directories(self.instance.data / "containers") if each.name.startswith(run.name)]
        orphan = data[0].name if data else run.name
        try:
            await self.shims.discard(orphan)
        except BulkheadError as error:
            log.warning("cannot end a shim that no record owns", container=orphan, reason=str(error))

    def _throw(self, path: Path) -> None:
        try:
            self.trash.throw(path)
        except BulkheadError as error:
            log.warning("cannot sweep", path=str(path), reason=str(error))


def _starts_again(container: Container) -> bool:
    return starts_at_boot(container.spec.restart_policy, was_alive=False, stopped_by_user=container.stopped_by_user)


def _starts_at_boot(container: Container) -> bool:
    alive = container.phase.alive or container.phase is Phase.RESTARTING
    return starts_at_boot(
        container.spec.restart_policy, was_alive=alive, stopped_by_user=container.stopped_by_user and not alive
    )


def _directories(place: Path) -> list[Path]:
    try:
        return [each for each in place.iterdir() if each.is_dir() and not each.is_symlink()]
    except FileNotFoundError:
        return []
