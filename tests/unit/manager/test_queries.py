"""What is read of many containers at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from bulkhead.manager.queries import Sizes
from tests.support.fake_snapshots import FakeSnapshots
from tests.support.manager_core import Running, fake_core


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Running]:
    async with fake_core(tmp_path) as running:
        yield running


@dataclass(slots=True)
class Unlike(FakeSnapshots):
    """Each container's layer is as large as its id says; notes how many are asked for in one go."""

    asked: list[int] = field(default_factory=list)

    async def usages(self, container_ids: Sequence[str]) -> list[int]:
        self.asked.append(len(container_ids))
        return [int(each, 16) for each in container_ids]


async def test_the_sizes_of_many_are_each_their_own(core: Running, tmp_path: Path) -> None:
    one = core.get(await core.create("true"))
    many = [replace(one, id=f"{number:064x}") for number in range(150)]
    layers = Unlike(tmp_path)
    sizes = await replace(core.core.queries, snapshots=layers).sizes(many)
    assert sizes == {each.id: Sizes(writable=int(each.id, 16), whole=int(each.id, 16) + 4096) for each in many}
    assert len(layers.asked) < 10, "each way to a thread and back takes longer than a look"
