"""Removing a container: its shim, its record, then its files. Runs inside the container's actor.

The record goes first, durably: a crash after it leaves files that nobody owns, which the next start sweeps; a crash
before it leaves the container as it was. Whoever asked is answered when the record is gone, since no death can bring
the container back from there; the files follow on nobody's time.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import structlog

from bulkhead import failpoints
from bulkhead.errors import BulkheadError
from bulkhead.manager.announcements import of_container, of_volume
from bulkhead.manager.networking import Networking
from bulkhead.manager.ports import Change, Records, Shims, Snapshots, Spares
from bulkhead.manager.volumes.catalogue import Volumes
from bulkhead.manager.waiters import Waiters
from bulkhead.model.container import Container
from bulkhead.model.instance import Instance
from bulkhead.model.lifecycle import Event, apply

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """Takes containers away."""

    instance: Instance
    records: Records
    shims: Shims
    snapshots: Snapshots
    networking: Networking
    volumes: Volumes
    spares: Spares
    waiters: Waiters

    async def remove(self, container_id: str, *, volumes: bool) -> None:
        """Remove a container that does not run.

        Raises Conflict when its phase forbids it; Internal when something of it cannot be ended: it is DEAD then,
        and removing can be tried again.
        """
        container = self.records.index.get(container_id)
        removing = apply(container.phase, Event.REMOVAL_BEGUN)
        failpoints.hit("manager.remove.begun")
        try:
            await self.shims.discard(container_id)
        except BulkheadError as error:
            dead = replace(container, phase=apply(removing, Event.REMOVAL_FAILED), error=str(error))
            await self.records.commit(Change(update=dead))
            raise
        failpoints.hit("manager.remove.discarded")
        await self.networking.unplug(container.attachments)
        failpoints.hit("manager.remove.unplugged")
        async with self.volumes.leaving(container) if volumes else nullcontext(()) as gone:
            events = [*(of_volume(self.records.volumes[name], "destroy") for name in gone)]
            change = Change(
                remove=container_id, drop_volumes=gone, events=(*events, of_container(container, "destroy"))
            )
            await self.records.commit(change, durable=True, then=partial(self._clear, container))
            if gone:
                # Their names may be used again from here on, for other volumes.
                await self._clear_volumes(container, gone)
        self.snapshots.let_go()
        self.waiters.removed(container_id, container.exit_code)

    def _clear(self, container: Container) -> None:
        """Take the files away; what fails, or is never done, is left to the sweep of the next start. Blocking."""
        failpoints.hit("manager.remove.recorded")
        try:
            # Each by spares and a trash of its own: a rename stays on one file system.
            self.snapshots.clear(container.id)
            failpoints.hit("manager.remove.layer")
            self.spares.clear(self.instance.container_data(container.id))
        except BulkheadError as error:
            log.warning("cannot clear after a container", container=container.id, reason=str(error))
        failpoints.hit("manager.remove.cleared")

    async def _clear_volumes(self, container: Container, volumes: tuple[str, ...]) -> None:
        try:
            await self.volumes.clear(volumes)
        except BulkheadError as error:
            log.warning("cannot clear volumes after a container", container=container.id, reason=str(error))
        failpoints.hit("manager.remove.volumes")
