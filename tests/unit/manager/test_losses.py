"""What deaths have taken is on record once, and announced when it is new or has grown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bulkhead.model.losses import Loss
from tests.support.eventually import eventually
from tests.support.manager_core import Running, fake_core


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Running]:
    async with fake_core(tmp_path) as running:
        yield running


async def _announced(core: Running) -> list[str]:
    return [event.attributes["what"] for event in await core.journal() if event.action == "loss"]


async def test_a_shim_s_cumulative_statements(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    first = (Loss(what="log", since=1, until=2), Loss(what="stdin", since=1))
    # After another death: one has grown, one is as it was, one is new.
    second = (Loss(what="log", since=1, until=9), first[1], Loss(what="exec exit code", since=3, until=4))
    third = (*second, Loss(what="log", since=1, until=9, lines=5))
    for stated in (first, first, second, second, third):
        core.core.exits.note_losses(core.get(container_id), stated)
    await eventually(lambda: core.get(container_id).losses == third)
    assert await _announced(core) == ["log", "stdin", "log", "exec exit code", "log"]


async def test_the_statement_at_the_end_adds_nothing_twice(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    lost = Loss(what="log", since=1, until=2, lines=3)
    core.core.exits.note_losses(core.get(container_id), (lost,))
    await eventually(lambda: core.get(container_id).losses == (lost,))
    stated = (Loss(what="log", since=1, until=5, lines=4), Loss(what="exit code", since=1, until=5))
    core.shim(container_id).losses = stated
    core.shim(container_id).exit(255)
    assert await core.ended(container_id) == 255
    assert core.get(container_id).losses == stated
    assert await _announced(core) == ["log", "log", "exit code"]
