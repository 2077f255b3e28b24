"""Networks of users: what is true when a step of a change fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest

from bulkhead.errors import Conflict, DeadlineExceeded, Internal, NotFound
from bulkhead.manager.adapters.records import SqliteRecords
from bulkhead.manager.networks import catalogue
from bulkhead.manager.networks.bridge import BridgeNetwork
from bulkhead.manager.ports import Change
from bulkhead.model.container import NetworkEndpoint, PublishedPort
from bulkhead.model.network import AddressBlock, NetworkRecord
from tests.support.eventually import eventually
from tests.support.fake_network import FakeKernel
from tests.support.manager_core import Running, World, fake_core, new_world, running_core

AT_9 = NetworkEndpoint(network_name="late", fixed_address="10.9.8.9")
REFUSED = Internal("cannot: No route to host")


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Running]:
    async with fake_core(tmp_path) as running:
        yield running


async def _beside_a_network(core: Running) -> str:
    """A container that runs on the default network, and not on `late`."""
    subnet = AddressBlock(subnet="10.9.8.0/24")
    await core.core.networks.create(NetworkRecord(id="", name="late", blocks=(subnet,)))
    return await core.run("sleep", "9", network_mode="bridge")


async def _on_two_networks(core: Running) -> str:
    """A container that runs, on the default network and on `late`."""
    container_id = await _beside_a_network(core)
    await core.core.networks.connect("late", container_id, AT_9)
    assert _networks(core, container_id) == ["bridge", "late"]
    return container_id


def _networks(core: Running, container_id: str) -> list[str]:
    container = core.get(container_id)
    assert len(container.attachments) == len(container.endpoints)
    return [each.network_name for each in container.endpoints]


@pytest.mark.parametrize("step", ["route", "delete_links", "silence"])
async def test_a_container_that_has_left_is_off_whatever_fails_afterwards(core: Running, step: str) -> None:
    container_id = await _on_two_networks(core)
    (kept, left) = core.get(container_id).attachments
    core.world.kernel.failures[step] = REFUSED
    await core.core.networks.disconnect("late", container_id, force=False)
    assert _networks(core, container_id) == ["bridge"]
    if step != "delete_links":
        assert left.host_interface not in core.world.kernel.interfaces
    core.world.kernel.failures.clear()
    other = await core.run("sleep", "9", network_mode="bridge")
    await core.core.networks.connect("late", other, AT_9)
    assert core.get(other).attachments[1].address == left.address
    assert kept.host_interface in core.world.kernel.interfaces


async def test_a_container_that_cannot_leave_is_still_on(core: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    container_id = await _on_two_networks(core)
    before = core.get(container_id)

    async def refuse(*_: object) -> None:
        raise REFUSED

    with monkeypatch.context() as patch:
        patch.setattr(BridgeNetwork, "unplug", refuse)
        with pytest.raises(Internal, match="No route to host"):
            await core.core.networks.disconnect("late", container_id, force=False)
    assert core.get(container_id) == before
    assert core.core.networking.names.describes(container_id)
    assert await core.actions("network") == ["create", "connect", "connect", "disconnect", "connect"]
    await core.core.networks.disconnect("late", container_id, force=False)
    assert _networks(core, container_id) == ["bridge"]


async def _published_beside_late(core: Running) -> str:
    """A container on both networks, of which the default one publishes a port that was asked for and one of its own
    choice."""
    await core.core.networks.create(NetworkRecord(id="", name="late", blocks=(AddressBlock(subnet="10.9.8.0/24"),)))
    ports = (PublishedPort(container_port=80, host_port=8080), PublishedPort(container_port=81))
    container_id = await core.run("sleep", "9", network_mode="bridge", ports=ports)
    await core.core.networks.connect("late", container_id, AT_9)
    return container_id


def _led_to(core: Running) -> set[str]:
    """Where the host's ports lead."""
    (table,) = (each for name, each in core.world.kernel.tables.items() if name.startswith("inet "))
    return {target.partition(" ")[0] for target in table.elements["published_any"].values()}


async def test_ports_stay_where_they_are_when_the_record_cannot_be_written(
    core: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    container_id = await _published_beside_late(core)
    before = core.get(container_id)
    with monkeypatch.context() as patch:
        patch.setattr(SqliteRecords, "commit", AsyncMock(side_effect=REFUSED))
        with pytest.raises(Internal, match="No route to host"):
            await core.core.networks.disconnect("bridge", container_id, force=False)
    assert core.get(container_id) == before
    assert _led_to(core) == {before.attachments[0].address}
    await core.core.networks.disconnect("bridge", container_id, force=False)
    (left,) = core.get(container_id).attachments
    assert left.ports == before.attachments[0].ports
    assert _led_to(core) == {left.address}


@pytest.mark.parametrize("step", ["publish", "route", "silence", "delete_links"])
async def test_ports_are_moved_whatever_else_fails(core: Running, step: str) -> None:
    """What the kernel did not take is done by who watches."""
    container_id = await _published_beside_late(core)
    core.world.kernel.failures[step] = REFUSED
    await core.core.networks.disconnect("bridge", container_id, force=False)
    core.world.kernel.failures.clear()
    (left,) = core.get(container_id).attachments
    assert left.ports[0].host_port == 8080 and len(left.ports) == 2
    assert [each.host_port for each in core.get(container_id).endpoints[0].ports] == [
        each.host_port for each in left.ports
    ]
    watching = asyncio.create_task(core.core.networking._network.watch())
    await eventually(lambda: _led_to(core) == {left.address})
    watching.cancel()
    await core.core.containers.remove(container_id, force=True, volumes=False)
    assert not _led_to(core)
    await core.run("sleep", "9", network_mode="bridge", ports=(PublishedPort(container_port=80, host_port=8080),))


async def test_a_container_that_could_not_be_connected_has_the_addresses_that_it_had(
    core: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    container_id = await _beside_a_network(core)
    hosts = core.world.instance.container_data(container_id) / "hosts"
    before = hosts.read_text()
    with monkeypatch.context() as patch:
        patch.setattr(SqliteRecords, "commit", AsyncMock(side_effect=REFUSED))
        with pytest.raises(Internal, match="No route to host"):
            await core.core.networks.connect("late", container_id, AT_9)
    assert hosts.read_text() == before
    assert _networks(core, container_id) == ["bridge"]


@pytest.mark.parametrize("action", ["connect", "disconnect"])
async def test_a_record_that_outlasts_its_operation_is_what_the_kernel_comes_to(
    core: Running, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    """A disk stood still, or the manager did: who asked has been told that it took too long."""
    container_id = await (_beside_a_network(core) if action == "connect" else _on_two_networks(core))
    networks = core.core.networks
    thaws = asyncio.Event()
    with monkeypatch.context() as patch:
        _hold_commits(patch, thaws)
        with pytest.raises(DeadlineExceeded):
            if action == "connect":
                await networks.connect("late", container_id, AT_9)
            else:
                await networks.disconnect("late", container_id, force=False)
        thaws.set()
        expected = ["bridge", "late"] if action == "connect" else ["bridge"]
        await eventually(lambda: _networks(core, container_id) == expected)
    await eventually(lambda: "settle" not in {each.name for each in core.core.containers.actors.in_flight})
    plugged = {each.host_interface for each in core.get(container_id).attachments}
    await eventually(lambda: {name for name, each in core.world.kernel.interfaces.items() if each.master} == plugged)


def _hold_commits(patch: pytest.MonkeyPatch, thaws: asyncio.Event) -> None:
    """Until then; and the operations that wait for them are of little patience."""
    commit, written = SqliteRecords.commit, SqliteRecords.written

    async def written_late(records: SqliteRecords) -> None:
        await thaws.wait()
        await written(records)

    async def commit_late(records: SqliteRecords, change: Change, **how: Any) -> None:
        async def late() -> None:
            await thaws.wait()
            await commit(records, change, **how)

        await asyncio.shield(asyncio.ensure_future(late()))

    patch.setattr(SqliteRecords, "commit", commit_late)
    patch.setattr(SqliteRecords, "written", written_late)
    patch.setattr(catalogue, "_CONNECT_SECONDS", 0.05)


async def test_a_network_is_not_removed_while_a_container_is_being_plugged_into_it(core: Running) -> None:
    await core.core.networks.create(NetworkRecord(id="", name="late"))
    kernel = core.world.kernel
    gate = kernel.gates["plug"] = asyncio.Event()
    starting = asyncio.create_task(core.run("sleep", "9", network_mode="late"))
    await eventually(lambda: "plug" in kernel.calls)
    with pytest.raises(Conflict, match="containers are plugged into it"):
        await core.core.networks.remove("late")
    gate.set()
    container_id = await starting
    network = core.core.networks.find("late")
    assert [container.id for container, _ in core.core.networks.members(network)] == [container_id]


async def test_a_network_whose_record_stays_has_its_bridge_again(
    core: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await core.core.networks.create(NetworkRecord(id="", name="late"))
    before = set(core.world.kernel.interfaces)

    async def refuse(*_: object, **__: object) -> None:
        raise REFUSED

    with monkeypatch.context() as patch:
        patch.setattr(SqliteRecords, "commit", refuse)
        with pytest.raises(Internal, match="No route to host"):
            await core.core.networks.remove("late")
    assert core.core.networks.find("late") == made
    assert set(core.world.kernel.interfaces) == before
    await core.run("sleep", "9", network_mode="late")


async def test_a_network_whose_record_stays_is_not_forgotten_when_its_bridge_cannot_be_made_again(
    core: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await core.core.networks.create(NetworkRecord(id="", name="late"))
    before = set(core.world.kernel.interfaces)

    async def refuse(*_: object, **__: object) -> None:
        raise REFUSED

    with monkeypatch.context() as patch:
        patch.setattr(SqliteRecords, "commit", refuse)
        core.world.kernel.failures["found_bridge"] = Internal("cannot: No buffer space available")
        with pytest.raises(Internal, match="No route to host"):
            await core.core.networks.remove("late")
    core.world.kernel.failures.clear()
    # As who watches does.
    await core.core.networking._network.ensure(made.id)
    assert set(core.world.kernel.interfaces) == before
    container_id = await core.run("sleep", "9", network_mode="late")
    await core.core.containers.remove(container_id, force=True, volumes=False)
    await core.core.networks.remove("late")
    assert not core.records.networks


@pytest.mark.parametrize("step", ["delete_links", "change_elements"])
async def test_a_network_is_gone_whatever_the_kernel_says_of_its_bridge(core: Running, step: str) -> None:
    before = set(core.world.kernel.interfaces)
    await core.core.networks.create(NetworkRecord(id="", name="late"))
    core.world.kernel.failures[step] = REFUSED
    await core.core.networks.remove("late")
    with pytest.raises(NotFound):
        core.core.networks.find("late")
    core.world.kernel.failures.clear()
    await core.core.networks.create(NetworkRecord(id="", name="other"))
    await core.core.networks.remove("other")
    if step == "change_elements":
        assert set(core.world.kernel.interfaces) == before


async def test_a_removal_whose_client_goes_runs_to_its_end(core: Running) -> None:
    before = set(core.world.kernel.interfaces)
    await core.core.networks.create(NetworkRecord(id="", name="late"))
    gate = core.world.kernel.gates["delete_links"] = asyncio.Event()
    removing = asyncio.create_task(core.core.networks.remove("late"))
    await eventually(lambda: "delete_links" in core.world.kernel.calls)
    removing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await removing
    gate.set()
    await eventually(lambda: not core.records.networks)
    assert set(core.world.kernel.interfaces) == before


async def test_two_installations_that_make_a_network_at_once_choose_two_subnets(tmp_path: Path) -> None:
    kernel = FakeKernel()
    async with _installation(tmp_path / "a", kernel, 1) as ours, _installation(tmp_path / "b", kernel, 2) as theirs:
        kernel.gates["found_bridge"] = asyncio.Event()
        kernel.calls.clear()
        making = [
            asyncio.create_task(each.core.networks.create(NetworkRecord(id="", name="late"))) for each in (ours, theirs)
        ]
        await eventually(lambda: "found_bridge" in kernel.calls)
        # Who is not kept waiting has chosen by now, and asks for its bridge.
        await asyncio.wait(making, timeout=0.1)
        kernel.gates["found_bridge"].set()
        chosen = {network.blocks[0].subnet for network in await asyncio.gather(*making)}
    assert len(chosen) == 2


async def test_a_subnet_is_not_chosen_elsewhere_before_its_removal_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, begun, refused = FakeKernel(), asyncio.Event(), asyncio.Event()
    async with _installation(tmp_path / "a", kernel, 1) as ours, _installation(tmp_path / "b", kernel, 2) as theirs:
        kept = await ours.core.networks.create(NetworkRecord(id="", name="late"))
        before = set(kernel.interfaces)
        commit = SqliteRecords.commit

        async def refuse_ours(records: SqliteRecords, change: Change, *, durable: bool = False) -> None:
            if records is ours.records:
                begun.set()
                await refused.wait()
                raise REFUSED
            await commit(records, change, durable=durable)

        monkeypatch.setattr(SqliteRecords, "commit", refuse_ours)
        removing = asyncio.create_task(ours.core.networks.remove("late"))
        await begun.wait()
        making = asyncio.create_task(theirs.core.networks.create(NetworkRecord(id="", name="late")))
        # Who is not kept waiting has chosen by now.
        await asyncio.wait([making], timeout=0.1)
        refused.set()
        with pytest.raises(Internal, match="No route to host"):
            await removing
        assert (await making).blocks[0].subnet != kept.blocks[0].subnet
        assert before < set(kernel.interfaces)


@asynccontextmanager
async def _installation(place: Path, kernel: FakeKernel, number: int) -> AsyncIterator[Running]:
    async with running_core(_world(place, kernel, number)) as running:
        yield running


def _world(place: Path, kernel: FakeKernel, number: int) -> World:
    place.mkdir()
    world = new_world(place)
    world.kernel = kernel
    world.instance = replace(world.instance, subnet=f"10.123.{number}.0/24", bridge=f"bhtest{number}")
    return world
