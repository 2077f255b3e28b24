"""From records, shims and exit records to one truth, before anything is served. A second run changes nothing.

For each container: what runs is watched again (same process, same start), what ended meanwhile is finished with the
code on record, a start that was under way is undone, a restart that was due is scheduled. Then whatever no record owns
is swept. A shim that does not answer in time is left to its watcher and delays nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import structlog

from bulkhead.content.blocking import to_its_end
from bulkhead.errors import BulkheadError
from bulkhead.manager import shared_memory
from bulkhead.manager.actors import Actors
from bulkhead.manager.exits import COMMIT, FINISH_SECONDS, Exits, exit_record, is_alive, unknown_exit
from bulkhead.manager.ports import Change, Exit, Groups, Records, Shim, Shims, ShimState, Trash
from bulkhead.manager.volumes.catalogue import Volumes
from bulkhead.model.container import Container
from bulkhead.model.instance import Instance
from bulkhead.model.lifecycle import Phase
from bulkhead.model.restart import starts_at_boot

log = structlog.get_logger()
BOOT_KEY = "boot_id"
UNKNOWN_EXIT = 255
_AT_ONCE = 16
_BUDGET_SECONDS = 5.0


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

    async def recover(self) -> None:
        """Run once, before serving."""
        rebooted = await self._has_rebooted()
        if rebooted:
            self.exits.boot_order.expect(each.id for each in self.records.index if _starts_at_boot(each))
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(container: Container) -> None:
            async with turns:
                await self._recover_one(container, rebooted=rebooted)

        await asyncio.gather(*(one(container) for container in self.records.index))
        await self._sweep()

    async def _has_rebooted(self) -> bool:
        before = await self.records.meta(BOOT_KEY)
        if before != self.boot_id:
            await self.records.set_meta(BOOT_KEY, self.boot_id)
        return before is not None and before != self.boot_id

    async def _recover_one(self, container: Container, *, rebooted: bool) -> None:
        try:
            if container.phase.alive:
                await self._recover_live(container, rebooted=rebooted)
            else:
                await self._recover_idle(container, rebooted=rebooted)
        except BulkheadError as error:
            log.error("cannot recover a container", container=container.id, reason=str(error))

    async def _recover_live(self, container: Container, *, rebooted: bool) -> None:
        """The record says that it runs."""
        shim, state = await self._ask(container)
        if state is not None and state.alive and state.pid == container.pid:
            await self._rejoin(container, shim, state)
            return
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
        await self.actors.perform(
            container.id,
            "finish",
            lambda: self.exits.finish(container.id, container.started_at, ended),
            seconds=FINISH_SECONDS,
        )

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
                await self.exits.starting.relaying.begin(container, shim)
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
        await asyncio.to_thread(self.exits.starting.bundles.release, container)
        if container.phase is Phase.RESTARTING:
            self.exits.restart_later(container.id, container.restart_delay_ms)
        elif _leftover(container):
            await self.actors.perform(
                container.id,
                "remove",
                lambda: self.exits.removal.remove(container.id, volumes=True),
                seconds=FINISH_SECONDS,
            )
        elif rebooted and _starts_again(container):
            self.actors.own(self._start(container.id), f"start {container.id[:12]}")

    async def _undo_start(self, container: Container) -> None:
        """End what a start or an exit that a crash cut short has left. A shim somebody attached to stays."""
        begun = container.id in self.records.intents
        shim, state = await self._ask(container)
        if begun or (state is not None and state.phase != "new"):
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
            async with asyncio.timeout(_BUDGET_SECONDS):
                shim = await self.shims.live(container.id)
                return shim, await shim.state() if shim is not None else None
        except (TimeoutError, BulkheadError) as error:
            log.warning("a shim does not answer", container=container.id, reason=str(error))
            return None, None

    async def _adopted(self, container: Container) -> tuple[Shim | None, ShimState | None]:
        """A new shim that adopts what the old one has left, and what it says; None when there is none in time."""
        try:
            async with asyncio.timeout(_BUDGET_SECONDS):
                shim = await self.shims.ensure(container.id)
                return shim, await shim.state()
        except (TimeoutError, BulkheadError):
            return None, None

    def _how_it_ended(self, container: Container, state: ShimState | None) -> Exit | None:
        """From the shim, the exit record, or the absence of the process; None while that lives."""
        if state is not None and state.exit_code is not None and state.pid in (0, container.pid):
            return Exit(code=state.exit_code, at=state.exited_at, oom_killed=state.oom_killed, losses=state.losses)
        recorded = exit_record(self.instance, container)
        if recorded is not None:
            return recorded
        return None if is_alive(container) else unknown_exit(container)

    async def _sweep(self) -> None:
        """Take away what no record owns: shims, directories, cgroups."""
        index = self.records.index
        try:
            await self.volumes.recover()
        except BulkheadError as error:
            log.warning("cannot sweep volumes", reason=str(error))
        for run in _directories(self.instance.run / "containers"):
            if not index.has_short(run.name):
                await self._sweep_run(run)
        for data in _directories(self.instance.data / "containers"):
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


def _leftover(container: Container) -> bool:
    """It removes itself, has run, and was not removed: a crash came between."""
    return container.spec.auto_remove and (container.started_at > 0 or container.error != "")


def _directories(place: Path) -> list[Path]:
    try:
        return [each for each in place.iterdir() if each.is_dir() and not each.is_symlink()]
    except FileNotFoundError:
        return []
