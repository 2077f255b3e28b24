"""`docker update`: limits, on the fly where the container runs, and the restart policy.

The record is written first and put back when the kernel refuses: a manager that dies in between leaves a container
whose next start has the limits that were asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import msgspec

from bulkhead import failpoints
from bulkhead.content.blocking import to_its_end
from bulkhead.errors import Conflict, Internal, InvalidArgument
from bulkhead.manager.actors import Actors
from bulkhead.manager.announcements import of_container
from bulkhead.manager.bundles import Bundles
from bulkhead.manager.exits import is_alive
from bulkhead.manager.oci_resources import resources as oci_resources
from bulkhead.manager.ports import Change, Records
from bulkhead.manager.settling import settle_later
from bulkhead.model.container import Container, ContainerSpec, Resources, RestartPolicy
from bulkhead.model.lifecycle import Phase

SECONDS = 30.0
_DEFAULT = Resources()
# Changes the limits of a live cgroup, all or nothing. Blocks; raises OSError, ValueError.
Limit = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What is to be different: fields of `resources` that are not their defaults; a `pids_limit` of -1 is none."""

    resources: Resources
    restart_policy: RestartPolicy | None = None
    engine_host_config: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Updating:
    """The use-case, for containers in any phase but the last."""

    records: Records
    bundles: Bundles
    actors: Actors
    limit: Limit
    # Told of a container whose limits are others now.
    limited: Callable[[Container], None]

    async def update(self, ref: str, update: Update) -> None:
        """Raises NotFound, Conflict with Docker's texts, InvalidArgument or Internal when the kernel refuses."""
        container_id = self.records.index.find(ref).id
        await self.actors.perform(
            container_id, "update", lambda: self._update(self.records.index.get(container_id), update), seconds=SECONDS
        )

    async def _update(self, container: Container, update: Update) -> None:
        try:
            _check(container, update)
        except Conflict as error:
            raise Conflict(f"Cannot update container {container.id}: {error}") from error
        spec = _updated(container.spec, update)
        # What the kernel has not heard of an earlier one is told with it.
        limits = _limits(spec.resources if container.unapplied else update.resources)
        live = bool(limits) and container.phase.alive
        updated = replace(container, spec=spec, unapplied=live)
        try:
            await self.records.commit(Change(update=updated), durable=True)
            failpoints.hit("manager.update.recorded")
            await self._bring_into_force(updated, limits if live else {}, before=container)
        except asyncio.CancelledError:
            settle = partial(self._settle, updated, container)
            settle_later(self.records, self.actors, container.id, settle, seconds=SECONDS)
            raise

    async def _settle(self, updated: Container, before: Container) -> None:
        """What has come on record comes into force, unless another update has seen to it."""
        current = self.records.index.get(updated.id)
        if current.unapplied and current.phase.alive and current.started_at == updated.started_at:
            before = replace(current, spec=before.spec, unapplied=before.unapplied)
            await self._bring_into_force(current, _limits(current.spec.resources), before=before)

    async def _bring_into_force(self, updated: Container, limits: Mapping[str, Any], *, before: Container) -> None:
        if limits:
            await self._apply(before, limits)
            failpoints.hit("manager.update.applied")
        change = Change(update=replace(updated, unapplied=False), events=(of_container(updated, "update"),))
        await self.records.commit(change)
        self.limited(updated)

    async def apply_again(self, container: Container) -> None:
        """A crash came between a record of limits and the kernel: tell the kernel.

        Raises OSError, ValueError, and InvalidArgument for a device that is gone.
        """
        limits = _limits(container.spec.resources)
        await asyncio.to_thread(self.limit, self.bundles.cgroups_path(container), limits)
        current = self.records.index.get(container.id)
        await self.records.commit(Change(update=replace(current, unapplied=False)))

    async def _apply(self, container: Container, limits: Mapping[str, Any]) -> None:
        try:
            # Not left behind by a deadline: it would come after those of the next update.
            await to_its_end(self.limit, self.bundles.cgroups_path(container), limits)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and not is_alive(container):
                # It has just ended, and its group is gone: they count from its next start.
                return
            await self.records.commit(Change(update=container), durable=True)
            reason = f"Cannot update container {container.id}: {error}"
            raise (InvalidArgument if isinstance(error, ValueError) else Internal)(reason) from error


def _check(container: Container, update: Update) -> None:
    if container.phase in (Phase.REMOVING, Phase.DEAD):
        raise Conflict('Container is marked for removal and cannot be "update".')
    new, old, policy = update.resources, container.spec.resources, update.restart_policy
    conflicts = (
        (new.nano_cpus and old.cpu_period, "Nano CPUs cannot be updated as CPU Period has already been set"),
        (new.nano_cpus and old.cpu_quota, "Nano CPUs cannot be updated as CPU Quota has already been set"),
        (new.cpu_period and old.nano_cpus, "CPU Period cannot be updated as NanoCPUs has already been set"),
        (new.cpu_quota and old.nano_cpus, "CPU Quota cannot be updated as NanoCPUs has already been set"),
    )
    for conflicting, text in conflicts:
        if conflicting:
            raise Conflict(f"Conflicting options: {text}")
    # What has no limit yet (0, or -1: none wanted) is below any: as Docker has it.
    if new.memory and not new.memory_swap and old.memory_swap < new.memory:
        raise Conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )
    if container.spec.auto_remove and policy is not None and policy.name not in ("", "no"):
        raise Conflict("Restart policy cannot be updated because AutoRemove is enabled for the container")


def _updated(spec: ContainerSpec, update: Update) -> ContainerSpec:
    told = {each.name: getattr(update.resources, each.name) for each in fields(Resources)}
    changes = {name: value for name, value in told.items() if value != getattr(_DEFAULT, name)}
    if changes.get("pids_limit", 0) < 0:
        changes["pids_limit"] = 0
    said = msgspec.json.decode(spec.engine_host_config or b"{}", type=dict[str, Any])
    said |= msgspec.json.decode(update.engine_host_config or b"{}", type=dict[str, Any])
    resources = replace(spec.resources, **changes)
    # It may have followed from the memory of the create, and that is another one now.
    said["MemorySwap"] = resources.memory_swap
    return replace(
        spec,
        resources=resources,
        restart_policy=update.restart_policy or spec.restart_policy,
        engine_host_config=msgspec.json.encode(said),
    )


def _limits(changes: Resources) -> dict[str, Any]:
    """As the runtime spec states them: only what changes."""
    found = oci_resources(changes)
    if not changes.memory_swap and "memory" in found:
        found["memory"].pop("swap", None)
    if changes.pids_limit < 0:
        found["pids"] = {"limit": -1}
    return found
