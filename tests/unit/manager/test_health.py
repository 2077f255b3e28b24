"""What the manager makes of a shim's news about health: no transition is lost, no action done that nobody asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.model.container import Container, Healthcheck
from bulkhead.model.health import Health, ProbeResult, Schedule, encode_health, judged
from bulkhead.model.lifecycle import Phase
from tests.support.eventually import eventually
from tests.support.manager_core import Running, World, new_world, running_core

CHECK = Healthcheck(test=("CMD-SHELL", "true"), retries=1)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return new_world(tmp_path)


def probed(container: Container, *codes: int) -> Health:
    health = Health(started_at=container.started_at)
    for number, code in enumerate(codes, 1):
        at = container.started_at + number
        result = ProbeResult(exec_id=f"e{number}", start=at, end=at, exit_code=code)
        health = judged(health, result, Schedule(retries=1))
    return health


def tell(core: Running, container_id: str, *codes: int) -> None:
    """The shim has probed that often in this run."""
    shim = core.shim(container_id)
    shim.healths = probed(core.get(container_id), *codes)
    shim.probed.set()


async def changes(core: Running) -> list[str]:
    return [action for action in await core.actions() if action.startswith("health_status")]


async def test_news_are_noted_and_announced(world: World) -> None:
    async with running_core(world) as core:
        container_id = await core.run("sleep", "9", healthcheck=CHECK)
        assert core.get(container_id).health_status == "starting"
        tell(core, container_id, 0)
        await eventually(lambda: core.get(container_id).health_status == "healthy")
        tell(core, container_id, 0, 1, 0, 1)
        await eventually(lambda: core.get(container_id).health_status == "unhealthy")
        assert await changes(core) == [
            f"health_status: {each}" for each in ("healthy", "unhealthy", "healthy", "unhealthy")
        ]
        assert (await core.actions()).count("exec_die") == 4
        assert core.get(container_id).phase is Phase.RUNNING, "nobody asked for more"


async def test_what_happened_while_the_manager_was_away_is_told_when_it_is_back(world: World) -> None:
    async with running_core(world) as core:
        container_id = await core.run("sleep", "9", healthcheck=CHECK)
        run = core.get(container_id)
    (world.instance.container_data(container_id) / "health.json").write_bytes(encode_health(probed(run, 0, 1)))
    world.shims.shims[container_id].exit(3)
    async with running_core(world) as core:
        await eventually(lambda: core.get(container_id).phase is Phase.EXITED)
        assert await changes(core) == ["health_status: healthy", "health_status: unhealthy"]
        found = core.get(container_id).health
        assert found is not None
        assert [each.exit_code for each in found.log] == [0, 1]


async def test_an_unhealthy_container_is_stopped_where_its_creator_asked_for_it(world: World) -> None:
    async with running_core(world) as core:
        labels = {"io.bulkhead.health.action": "stop"}
        container_id = await core.run("sleep", "9", healthcheck=CHECK, labels=labels)
        tell(core, container_id, 1)
        await eventually(lambda: core.get(container_id).phase is Phase.EXITED)
        assert core.get(container_id).ended_by == "health"


async def test_a_restart_by_health_is_on_record_and_within_its_budget(world: World) -> None:
    async with running_core(world) as core:
        labels = {"io.bulkhead.health.action": "restart", "io.bulkhead.health.budget": "1"}
        container_id = await core.run("sleep", "9", healthcheck=CHECK, labels=labels)
        first = core.get(container_id).started_at
        tell(core, container_id, 1)
        await eventually(
            lambda: core.get(container_id).phase is Phase.RUNNING and core.get(container_id).started_at > first
        )
        second = core.get(container_id)
        assert (second.ended_by, second.health_status, len(second.health_acted)) == ("health", "starting", 1)
        tell(core, container_id, 1)
        await eventually(lambda: core.get(container_id).health_status == "unhealthy")
        await core.settled(container_id)
        assert core.get(container_id).started_at == second.started_at


async def test_labels_that_make_no_sense_are_refused(world: World) -> None:
    async with running_core(world) as core:
        with pytest.raises(InvalidArgument, match=r"invalid label io\.bulkhead\.health\.action=rm"):
            await core.create("sleep", labels={"io.bulkhead.health.action": "rm"})
