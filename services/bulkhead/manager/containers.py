"""The use-cases on containers, as the edge calls them: find what is meant, queue it at its actor, answer.

What a use-case does is told in its own module (creation, starting, exits, stopping, removal, queries).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from bulkhead import failpoints
from bulkhead.errors import BulkheadError, Conflict, InvalidArgument, NotFound, Unavailable
from bulkhead.manager import host_ps, links, processes
from bulkhead.manager.actors import Actors
from bulkhead.manager.announcements import of_container
from bulkhead.manager.creation import Creation, NewContainer
from bulkhead.manager.exits import START_SECONDS, Exits
from bulkhead.manager.ports import Change, Records, Shim, Shims
from bulkhead.manager.processes import Listing
from bulkhead.manager.removal import Removal
from bulkhead.manager.settling import settle_later
from bulkhead.manager.stopping import Stopping
from bulkhead.manager.waiters import Ended, Waiters, parse_condition
from bulkhead.model.container import Container, ContainerSpec
from bulkhead.model.instance import Instance
from bulkhead.model.lifecycle import Phase
from bulkhead.model.names import normal

CREATE_SECONDS = 120.0
REMOVE_SECONDS = 60.0
QUICK_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StdioAddress:
    """Where a container's streams are had, and what to expect of them."""

    container: Container
    socket: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Containers:
    """All use-cases that change or watch one container. `ref` is an id, a name or an id's prefix."""

    instance: Instance
    records: Records
    shims: Shims
    actors: Actors
    waiters: Waiters
    creation: Creation
    exits: Exits
    stopping: Stopping
    removal: Removal

    async def create(self, name: str, spec: ContainerSpec) -> NewContainer:
        return await self.actors.shielded(self.creation.create(name, spec), "create", seconds=CREATE_SECONDS)

    async def start(self, ref: str) -> None:
        """Raises what `Starting.start` does; a container that removes itself is gone after a failure."""
        container = self.records.index.find(ref)

        async def work() -> None:
            try:
                await self.exits.start(container.id, by_user=True)
            except BulkheadError:
                await self._remove_failed(container.id)
                raise

        await self.actors.perform(container.id, "start", work, seconds=START_SECONDS)

    async def stdio(self, ref: str, *, attach: bool = False) -> StdioAddress:
        """The socket of the container's shim, which is brought up when there is none.

        Who wants to `attach` is announced, and refused while it is paused or restarting. Who follows the log is told
        Unavailable while it restarts, and NotFound when it does not run.
        """
        container = self.records.index.find(ref)
        if attach:
            _refuse_attach(container)
            self._announce(container, "attach")
        ready = self._listening_shim if attach else self._logging_shim
        await self.actors.perform(container.id, "attach to", lambda: ready(container.id), seconds=QUICK_SECONDS)
        return StdioAddress(container=container, socket=str(self.instance.stdio_socket(container.id)))

    async def stop(self, ref: str, signal: str, timeout: int | None) -> None:
        container = self.records.index.find(ref)
        await self.actors.shielded(self.stopping.stop(container.id, signal, timeout), "stop", container.id)

    async def restart(self, ref: str, signal: str, timeout: int | None) -> None:
        container = self.records.index.find(ref)
        try:
            await self.actors.shielded(self.stopping.restart(container.id, signal, timeout), "restart", container.id)
        except BulkheadError as error:
            raise error.told_as(f"Cannot restart container {ref}: {error}") from error

    async def kill(self, ref: str, signal: str) -> None:
        try:
            container = self.records.index.find(ref)
        except NotFound as error:
            raise error.told_as(f"Cannot kill container: {ref}: {error}") from error
        await self.actors.shielded(self.stopping.kill(container.id, ref, signal), "kill", container.id)

    async def pause(self, ref: str) -> None:
        await self.stopping.pause(self.records.index.find(ref).id)

    async def unpause(self, ref: str) -> None:
        await self.stopping.unpause(self.records.index.find(ref).id)

    async def wait(self, ref: str, condition: str) -> AsyncGenerator[Ended | None, None]:
        """First None: armed, whatever happens from now on is seen. Then the end."""
        wanted = parse_condition(condition)
        container = self.records.index.find(ref)
        with self.waiters.armed(container, wanted) as ended:
            yield None
            yield await ended

    async def resize(self, ref: str, height: int, width: int) -> None:
        container = self.records.index.find(ref)
        shim = await self._shim_of_running(container)
        await shim.resize(height, width)
        self._announce(container, "resize", {"height": str(height), "width": str(width)})

    async def top(self, ref: str, ps_args: str) -> Listing:
        """Its processes. Raises Conflict when it does not run, InvalidArgument for options that ps does not know."""
        container = self.records.index.find(ref)
        by_ps = _needs_ps(ps_args)
        shim = await self._shim_of_running(container)
        pids = await shim.pids()
        found = await asyncio.to_thread(host_ps.listing, pids, ps_args) if by_ps else processes.listing(pids, ps_args)
        self._announce(container, "top")
        return found

    def _announce(self, container: Container, action: str, told: Mapping[str, str] | None = None) -> None:
        """What changes nothing is announced on its own time: nobody waits for the journal."""
        work = self.records.commit(Change(events=(of_container(container, action, told),)))
        self.actors.own(work, f"announce {action} of {container.id[:12]}")

    async def rename(self, ref: str, name: str) -> None:
        container = self.records.index.find(ref)
        if not name:
            raise InvalidArgument("Neither old nor new names may be empty")
        try:
            wanted = normal(f"/{name.removeprefix('/')}")
        except InvalidArgument as error:
            raise InvalidArgument(f"Error when allocating new name: {error}") from None
        await self.actors.perform(
            container.id, "rename", lambda: self._rename(container.id, wanted), seconds=QUICK_SECONDS
        )

    async def remove(self, ref: str, *, force: bool, volumes: bool) -> None:
        """Raises Conflict with Docker's texts for one that runs, unless `force`."""
        container = self.records.index.find(ref)
        if not force:
            _refuse_removal(container)
        await self.actors.shielded(self._remove(container.id, force=force, volumes=volumes), "remove", container.id)

    async def remove_stopped(self, container_id: str) -> None:
        """For prune: remove, volumes stay; Conflict when it has been started meanwhile."""
        await self._queue_removal(container_id, volumes=False)

    async def _remove(self, container_id: str, *, force: bool, volumes: bool) -> None:
        with contextlib.suppress(NotFound), contextlib.ExitStack() as doom:  # one that removes itself was faster
            if force:
                # A restart under way waits for the very end that this brings about.
                doom.enter_context(self.exits.doomed(container_id))
                await self.stopping.end_for_removal(container_id)
                with contextlib.suppress(Conflict):
                    await self._queue_removal(container_id, volumes=volumes)
                    return
                # A start under way was faster; there comes no other.
                await self.stopping.end_for_removal(container_id)
            await self._queue_removal(container_id, volumes=volumes)

    async def unlink(self, name: str) -> None:
        """Forget a link, `/parent/alias`. Raises Conflict for a container's own name, NotFound."""
        parent_name, _, alias = name.strip("/").rpartition("/")
        if not parent_name:
            raise Conflict("Conflict, cannot remove the default link name of the container")
        parent = self.records.index.find(parent_name)
        await self.actors.perform(
            parent.id, "unlink", lambda: self._unlink(parent.id, alias, name), seconds=QUICK_SECONDS
        )

    async def _unlink(self, container_id: str, alias: str, name: str) -> None:
        container = self.records.index.get(container_id)
        kept = links.without(container, alias)
        if kept is None:
            raise NotFound(f"No such container: {name.strip('/')}")
        changed = replace(container, spec=replace(container.spec, links=kept))
        await self.records.commit(Change(update=changed), durable=True)

    async def _queue_removal(self, container_id: str, *, volumes: bool) -> None:
        async def work() -> None:
            await self.exits.cancel_restart(container_id)
            _refuse_removal(self.records.index.get(container_id))
            await self.removal.remove(container_id, volumes=volumes)

        await self.actors.perform(container_id, "remove", work, seconds=REMOVE_SECONDS)

    async def _remove_failed(self, container_id: str) -> None:
        container = self.records.index.get(container_id)
        if container.spec.auto_remove and container.error and not container.phase.alive:
            await self.removal.remove(container_id, volumes=True)

    async def _listening_shim(self, container_id: str) -> None:
        container = self.records.index.get(container_id)
        _refuse_attach(container)
        await self.shims.ensure(container_id)

    async def _logging_shim(self, container_id: str) -> None:
        """One that waits for a start would not say that the log is complete: there is none until then."""
        phase = self.records.index.get(container_id).phase
        if phase is Phase.RESTARTING:
            raise Unavailable(f"container {container_id} is restarting")
        if not phase.alive:
            raise NotFound(f"container {container_id} is not running")
        await self.shims.ensure(container_id)

    async def _rename(self, container_id: str, name: str) -> None:
        container = self.records.index.get(container_id)
        if name == container.name:
            raise InvalidArgument("Renaming a container with the same name as its current name")
        if container.phase in (Phase.REMOVING, Phase.DEAD):
            raise Conflict("Container is marked for removal and cannot be renamed")
        try:
            self.records.index.reserve(name, container_id)
        except Conflict as error:
            raise Conflict(f"Error when allocating new name: {error}") from None
        try:
            renamed = replace(container, name=name)
            event = of_container(renamed, "rename", {"oldName": f"/{container.name}"})
            await self.records.commit(Change(update=renamed, events=(event,)), durable=True)
            failpoints.hit("manager.rename.recorded")
        except asyncio.CancelledError:
            settle = partial(self._settle_name, container_id, name)
            settle_later(self.records, self.actors, container_id, settle, seconds=QUICK_SECONDS)
            raise
        except BaseException:
            await self._settle_name(container_id, name)
            raise
        await self._settle_name(container_id, name)

    async def _settle_name(self, container_id: str, name: str) -> None:
        """A commit does not end with the patience of who waits for it: is the name the container's by now?"""
        index = self.records.index
        container = index.get(container_id) if index.knows(container_id) else None
        if container is None or container.name != name:
            index.free(name, container_id)
        elif container.phase.alive:
            self.exits.networking.rename(container)

    async def _shim_of_running(self, container: Container) -> Shim:
        if container.phase is Phase.RESTARTING:
            raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
        if not container.phase.alive:
            raise Conflict(f"Container {container.id} is not running")
        return await self.shims.ensure(container.id)


def _refuse_attach(container: Container) -> None:
    if container.phase is Phase.PAUSED:
        raise Conflict(f"Container {container.id} is paused, unpause the container before attach.")
    if container.phase is Phase.RESTARTING:
        raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
    if container.phase in (Phase.REMOVING, Phase.DEAD):
        raise Conflict(f"container {container.id} is marked for removal and cannot be attached to")


def _refuse_removal(container: Container) -> None:
    procedure = "Stop the container before attempting removal or force remove"
    match container.phase:
        case Phase.RUNNING | Phase.RESTARTING:
            pass
        case Phase.PAUSED:
            procedure = "Unpause and then stop the container before attempting removal or force remove"
        case Phase.REMOVING:
            raise Conflict(f"removal of container {container.id} is already in progress")
        case _:
            return
    raise Conflict(f"You cannot remove a {container.phase.value} container {container.id}. {procedure}")


def _needs_ps(ps_args: str) -> bool:
    """Whether only the host's ps knows these options; the usual ones need no program. InvalidArgument without a ps."""
    try:
        processes.columns(ps_args)
    except InvalidArgument:
        if not host_ps.available():
            raise
        return True
    return False
