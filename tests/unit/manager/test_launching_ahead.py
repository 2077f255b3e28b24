"""Shims that are there before anybody wants them: never two of a container, and none that stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bulkhead.errors import BulkheadError, Unavailable
from bulkhead.manager import launching_ahead
from bulkhead.manager.actors import Actors
from bulkhead.manager.launching_ahead import LaunchingAhead
from bulkhead.manager.ports import SupervisorAway
from tests.support.eventually import eventually
from tests.support.fake_shims import FakeShim, FakeShims
from tests.support.manager_core import new_world

_LONG, _SHORT = 60.0, 0.05
_ID = "a" * 64


class SlowShims(FakeShims):
    """Launches and discards wait for `gate`."""

    gate: asyncio.Event | None = None

    async def ensure(self, container_id: str, *, network_given: bool = False, cgroup: str = "") -> FakeShim:
        await self._passed()
        return await super().ensure(container_id, network_given=network_given, cgroup=cgroup)

    async def discard(self, container_id: str) -> None:
        await self._passed()
        await super().discard(container_id)

    async def _passed(self) -> None:
        if self.gate is not None:
            await self.gate.wait()


@pytest.fixture
def shims(tmp_path: Path) -> SlowShims:
    return SlowShims(new_world(tmp_path).instance)


@pytest.fixture
async def actors() -> AsyncIterator[Actors]:
    async with Actors() as running:
        yield running


async def test_a_shim_that_is_expected_is_there_before_it_is_wanted_and_is_the_only_one(
    shims: SlowShims, actors: Actors
) -> None:
    ahead = LaunchingAhead(shims, actors, seconds=_LONG)
    ahead.expect(_ID, network_given=False)
    await eventually(lambda: shims.launched == [_ID])
    assert await ahead.ensure(_ID) is shims.shims[_ID]
    assert shims.launched == [_ID]


async def test_who_wants_a_shim_that_is_being_launched_waits_for_that_one(shims: SlowShims, actors: Actors) -> None:
    ahead = LaunchingAhead(shims, actors, seconds=_LONG)
    gate = shims.gate = asyncio.Event()
    ahead.expect(_ID, network_given=False)
    wanted = asyncio.ensure_future(ahead.ensure(_ID))
    await asyncio.sleep(0)
    gate.set()
    assert await wanted is shims.shims[_ID]
    assert shims.launched == [_ID]


async def test_one_that_is_wanted_is_not_given_back(shims: SlowShims, actors: Actors) -> None:
    ahead = LaunchingAhead(shims, actors, seconds=_SHORT)
    ahead.expect(_ID, network_given=False)
    await ahead.ensure(_ID)
    await asyncio.sleep(3 * _SHORT)
    assert shims.discarded == []


async def test_one_that_nobody_wants_is_given_back_and_who_comes_then_waits_for_a_new_one(
    shims: SlowShims, actors: Actors
) -> None:
    ahead = LaunchingAhead(shims, actors, seconds=_SHORT)
    ahead.expect(_ID, network_given=False)
    await eventually(lambda: _ID in shims.shims)
    first, gate = shims.shims[_ID], asyncio.Event()
    shims.gate = gate
    await asyncio.sleep(3 * _SHORT)
    wanted = asyncio.ensure_future(ahead.ensure(_ID))
    await asyncio.sleep(0)
    assert shims.discarded == []
    gate.set()
    assert await wanted is not first
    assert (shims.discarded, shims.launched) == ([_ID], [_ID, _ID])


async def test_a_removal_waits_for_the_launch_so_that_no_shim_comes_after_it(shims: SlowShims, actors: Actors) -> None:
    ahead = LaunchingAhead(shims, actors, seconds=_LONG)
    gate = shims.gate = asyncio.Event()
    ahead.expect(_ID, network_given=False)
    removal = asyncio.ensure_future(ahead.discard(_ID))
    await asyncio.sleep(0)
    gate.set()
    await removal
    assert (shims.launched, shims.discarded, shims.shims) == ([_ID], [_ID], {})


async def test_a_removal_does_not_wait_for_a_supervisor_that_stands_still(
    shims: SlowShims, actors: Actors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching_ahead, "_PATIENCE_SECONDS", _SHORT)
    ahead = LaunchingAhead(shims, actors, seconds=_LONG)
    shims.gate = asyncio.Event()
    ahead.expect(_ID, network_given=False)
    await asyncio.sleep(0)
    removal = asyncio.ensure_future(ahead.discard(_ID))
    await asyncio.sleep(3 * _SHORT)
    # It waits for what it asks for itself.
    shims.gate.set()
    await removal
    assert shims.launched == []


async def test_who_has_waited_for_a_supervisor_that_is_away_does_not_do_so_twice(
    shims: SlowShims, actors: Actors
) -> None:
    ahead = LaunchingAhead(shims, actors, seconds=_LONG)
    gate = shims.gate = asyncio.Event()
    shims.supervisor_away = True
    ahead.expect(_ID, network_given=False)
    wanted = asyncio.ensure_future(ahead.ensure(_ID))
    await asyncio.sleep(0)
    shims.gate = asyncio.Event()  # nobody comes through any more
    gate.set()
    with pytest.raises(SupervisorAway):
        await wanted


async def test_only_so_many_are_launched_ahead_and_each_that_is_wanted_makes_room(
    shims: SlowShims, actors: Actors
) -> None:
    ahead = LaunchingAhead(shims, actors, seconds=_LONG)
    ids = [character * 64 for character in "abcdef"]
    for each in ids:
        ahead.expect(each, network_given=False)
    await eventually(lambda: len(shims.launched) >= 4)
    assert shims.launched == ids[:4]
    await ahead.ensure(ids[0])
    ahead.expect(ids[4], network_given=False)
    await eventually(lambda: shims.launched == ids[:5])


async def test_who_gave_up_waiting_for_a_shim_keeps_no_place(shims: SlowShims, actors: Actors) -> None:
    ahead = LaunchingAhead(shims, actors, seconds=_LONG)
    gate = shims.gate = asyncio.Event()
    ids = [character * 64 for character in "abcdefgh"]
    for each in ids[:4]:
        ahead.expect(each, network_given=False)
    wanted = [asyncio.ensure_future(ahead.ensure(each)) for each in ids[:4]]
    await asyncio.sleep(0)
    for waiting in wanted:
        waiting.cancel()
    gate.set()
    await eventually(lambda: len(shims.launched) == 4)
    await asyncio.sleep(0)
    for each in ids[4:]:
        ahead.expect(each, network_given=False)
    await eventually(lambda: shims.launched == ids)


async def test_a_launch_that_fails_is_told_to_who_wants_the_shim_and_to_nobody_else(
    shims: SlowShims, actors: Actors
) -> None:
    ahead = LaunchingAhead(shims, actors, seconds=_LONG)
    shims.supervisor_away = True
    ahead.expect(_ID, network_given=False)
    with pytest.raises(BulkheadError, match="supervisor"):
        await ahead.ensure(_ID)
    shims.supervisor_away = False
    assert await ahead.ensure(_ID) is shims.shims[_ID]


async def test_one_that_cannot_be_given_back_keeps_no_place(shims: SlowShims, actors: Actors) -> None:
    ahead = LaunchingAhead(shims, actors, seconds=_SHORT)
    shims.discard_failure = Unavailable("it stays")
    ids = [character * 64 for character in "abcde"]
    for each in ids[:4]:
        ahead.expect(each, network_given=False)
    await asyncio.sleep(3 * _SHORT)
    ahead.expect(ids[4], network_given=False)
    await eventually(lambda: shims.launched == ids)
