"""The manager's core on fakes and a real database: everything but processes, mounts and networks.

async with fake_core(tmp_path) as core:
    made = await core.create("sleep", "9")
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bulkhead.manager.actors import Actors
from bulkhead.manager.adapters.database import Database
from bulkhead.manager.adapters.journal_store import SqliteJournalStore
from bulkhead.manager.adapters.records import SqliteRecords
from bulkhead.manager.config import ManagerConfig
from bulkhead.manager.core import Core, Ports, assemble
from bulkhead.manager.eventbus import EventBus
from bulkhead.model.container import Container, ContainerSpec
from bulkhead.model.events import Event
from bulkhead.model.instance import Instance
from bulkhead.model.sample import Sample
from tests.support.fake_images import FakeImages
from tests.support.fake_memory import FakeMemory
from tests.support.fake_network import FakeKernel, fake_network
from tests.support.fake_shims import FakeShim, FakeShims
from tests.support.fake_snapshots import FakeGroups, FakeSnapshots, FakeSpares, FakeTrash


@dataclass(slots=True)
class World:
    """What stays when a manager dies: disk, shims, kernel."""

    instance: Instance
    shims: FakeShims
    snapshots: FakeSnapshots
    images: FakeImages = field(default_factory=FakeImages)
    kernel: FakeKernel = field(default_factory=FakeKernel)
    config: ManagerConfig = field(default_factory=ManagerConfig)
    boot_id: str = "boot-1"
    groups: FakeGroups = field(default_factory=FakeGroups)
    memory: FakeMemory = field(default_factory=FakeMemory)


def new_world(base: Path) -> World:
    """An empty installation below `base`."""
    instance = Instance(run=base / "run", data=base / "data", subnet="10.123.0.0/24")
    instance.run.mkdir()
    instance.data.mkdir()
    return World(instance=instance, shims=FakeShims(instance), snapshots=FakeSnapshots(instance.data / "snapshots"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A manager's core at work, and what tests ask of it all the time."""

    world: World
    core: Core
    records: SqliteRecords
    events: EventBus

    async def create(self, *command: str, name: str = "", **spec: Any) -> str:
        """A container of `busybox`; its id."""
        chosen = {"image": "busybox", "network_mode": "none", "command": command or None, **spec}
        return (await self.core.containers.create(name, ContainerSpec(**chosen))).id

    async def run(self, *command: str, **spec: Any) -> str:
        """Create and start; the id."""
        container_id = await self.create(*command, **spec)
        await self.core.containers.start(container_id)
        return container_id

    def get(self, container_id: str) -> Container:
        return self.records.index.get(container_id)

    def shim(self, container_id: str) -> FakeShim:
        return self.world.shims.shims[container_id]

    async def ended(self, container_id: str, condition: str = "not-running") -> int:
        """Wait for it; the exit code."""
        async for ended in self.core.containers.wait(container_id, condition):
            if ended is not None:
                return ended.exit_code
        raise AssertionError("the wait ended without an answer")

    async def settled(self, container_id: str) -> None:
        """Returns when the operations queued so far have ended."""

        async def nothing() -> None:
            return

        await self.core.exits.actors.perform(container_id, "settle", nothing, seconds=10)

    async def journal(self) -> list[Event]:
        """Everything told so far, what may be late too: it is written before anything that is read."""
        await self.records.meta("any")
        return [event async for event in _until_now(self.events)]

    async def actions(self, kind: str = "container") -> list[str]:
        """The actions of all events of one type, in order."""
        return [event.action for event in await self.journal() if event.type == kind]


@asynccontextmanager
async def running_core(world: World, *, recover: bool = True) -> AsyncIterator[Running]:
    """A manager's life in `world`; leaving the block is its death, as far as the world can tell."""
    async with Database.open(world.instance.data / "bulkhead.db") as database:
        events = EventBus(SqliteJournalStore(database), keep=1000, keep_seconds=3600)
        await events.open()
        records = await SqliteRecords.open(database, events.announce)
        async with Actors() as actors:
            network = fake_network(world.instance, world.kernel)
            ports = Ports(
                records=records,
                shims=world.shims,
                images=world.images,
                snapshots=world.snapshots,
                network=network,
                trash=FakeTrash(),
                spares=FakeSpares(),
                image_size=lambda _: 4096,
                boot_id=world.boot_id,
                groups=world.groups,
                figures=lambda each, _: Sample(id=each.id, name=each.name, at=time.time_ns()),
                limit=lambda _, __: None,
                oom_notices=world.memory.notices,
            )
            core = assemble(world.instance, world.config, ports, actors)
            if recover:
                await core.networking.recover()
                await core.recovery.recover()
                core.execs.recover()
            yield Running(world=world, core=core, records=records, events=events)


@asynccontextmanager
async def fake_core(base: Path) -> AsyncIterator[Running]:
    """A fresh world with a manager in it."""
    async with running_core(new_world(base)) as running:
        yield running


async def _until_now(events: EventBus) -> AsyncIterator[Event]:
    last = events.last_sequence
    if last == 0:
        return
    async for event in await events.subscribe(since=0):
        yield event
        if event.sequence == last:
            return
