"""One sampler for all watchers: each container read once a round, rest when nobody watches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bulkhead.errors import NotFound
from bulkhead.manager.actors import Actors
from bulkhead.manager.sampling import Sampler
from bulkhead.model.container import Container
from bulkhead.model.sample import Sample
from tests.support.eventually import eventually
from tests.support.manager_core import Running, fake_core


class Counting:
    """Figures that tell how often they were read."""

    def __init__(self) -> None:
        self.reads = 0

    def __call__(self, container: Container) -> Sample:
        self.reads += 1
        return Sample(id=container.id, name=container.name, at=self.reads)


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Running]:
    async with fake_core(tmp_path) as running:
        yield running


@contextlib.asynccontextmanager
async def sampler(core: Running, figures: Counting) -> AsyncIterator[Sampler]:
    async with Actors() as actors:
        yield Sampler(index=core.records.index, actors=actors, read=figures, period=0.01)


async def first(sampler: Sampler, ref: str, count: int) -> list[int]:
    found: list[int] = []
    async with contextlib.aclosing(sampler.watch(ref, stream=True, immediately=False)) as samples:
        async for sample in samples:
            found.append(sample.at)
            if len(found) == count:
                break
    return found


async def test_watchers_share_each_reading(core: Running) -> None:
    container, figures = await core.run("sleep", "9"), Counting()
    async with sampler(core, figures) as one:
        several = await asyncio.gather(*(first(one, container, 3) for _ in range(20)))
        assert {tuple(each) for each in several} == {(1, 2, 3)}
        await eventually(lambda: one._task is None)
        assert figures.reads <= 4
        assert await first(one, container, 1) == [figures.reads]


async def test_one_sample_at_once_or_the_second_of_two(core: Running) -> None:
    container, figures = await core.run("sleep", "9"), Counting()
    async with sampler(core, figures) as one:
        assert [each.at async for each in one.watch(container, stream=False, immediately=True)] == [1]
        assert [each.at async for each in one.watch(container, stream=False, immediately=False)] == [2, 3]


async def test_what_does_not_run_uses_nothing_and_what_is_removed_ends(core: Running) -> None:
    container, figures = await core.create("true", name="still"), Counting()
    async with sampler(core, figures) as one:
        (sample,) = [each async for each in one.watch("still", stream=False, immediately=False)]
        assert (sample, figures.reads) == (Sample(id=container, name="still"), 0)
        seen = 0
        async with contextlib.aclosing(one.watch("still", stream=True, immediately=False)) as samples:
            async for _ in samples:
                seen += 1
                if seen == 2:
                    await core.core.containers.remove("still", force=False, volumes=False)
        assert seen >= 2
        with pytest.raises(NotFound):
            await anext(one.watch("still", stream=True, immediately=False))
