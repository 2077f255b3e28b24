"""What no image needs any more, and who comes for it while it goes."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from bulkhead.manager.images.collector import Collector
from bulkhead.manager.images.leases import Kind, Leases
from bulkhead.manager.index import Index
from bulkhead.model.digest import Digest

CHAIN = Digest.of(b"a layer")


class Nothing:
    """Books in which nothing is, and a ledger of them."""

    @property
    def books(self) -> Nothing:
        return self

    def layer(self, _: Digest) -> None:
        return None


class StandingStill:
    """Layers on such a disk."""

    def __init__(self) -> None:
        self.begun, self.thaws = asyncio.Event(), asyncio.Event()
        self.discarded: list[Digest] = []

    async def discard(self, chain: Digest) -> None:
        self.begun.set()
        await self.thaws.wait()
        self.discarded.append(chain)


async def test_who_wants_a_layer_that_is_being_thrown_away_waits_until_it_is_gone() -> None:
    """The rename may wait for a disk: nobody may find the layer meanwhile, and build on it."""
    layers, leases = StandingStill(), Leases()
    collector = Collector(cast(Any, Nothing()), cast(Any, None), cast(Any, layers), leases, Index())
    freeing = asyncio.create_task(collector.free_layers([CHAIN]))
    await layers.begun.wait()
    with leases.lease() as lease:
        wanting = asyncio.create_task(lease.add(Kind.LAYER, CHAIN))
        await asyncio.sleep(0)
        assert not wanting.done()
        layers.thaws.set()
        await wanting
        assert layers.discarded == [CHAIN]
        await freeing
        await collector.free_layers([CHAIN])
    assert layers.discarded == [CHAIN]
