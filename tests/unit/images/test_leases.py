"""Nobody deletes what is in use, and nobody begins to use what is being deleted."""

from __future__ import annotations

import asyncio

from bulkhead.manager.images.leases import Kind, Leases
from bulkhead.model.digest import Digest

BLOB = Digest("sha256", "1" * 64)


async def test_leased_things_cannot_be_condemned() -> None:
    leases = Leases()
    with leases.lease() as lease:
        await lease.add(Kind.BLOB, BLOB)
        async with leases.condemned(Kind.BLOB, BLOB) as mine:
            assert not mine
        async with leases.condemned(Kind.LAYER, BLOB) as mine:
            assert mine, "kinds are apart"
    async with leases.condemned(Kind.BLOB, BLOB) as mine:
        assert mine


async def test_lease_waits_until_the_condemned_is_gone() -> None:
    leases = Leases()
    order: list[str] = []

    async def use() -> None:
        with leases.lease() as lease:
            await lease.add(Kind.BLOB, BLOB)
            order.append("leased")

    async with leases.condemned(Kind.BLOB, BLOB) as mine:
        assert mine
        task = asyncio.create_task(use())
        await asyncio.sleep(0)
        order.append("deleted")
    await task
    assert order == ["deleted", "leased"]


async def test_only_one_deletes() -> None:
    leases = Leases()
    async with leases.condemned(Kind.BLOB, BLOB) as first, leases.condemned(Kind.BLOB, BLOB) as second:
        assert (first, second) == (True, False)


async def test_two_leases_hold_until_both_end() -> None:
    leases = Leases()
    with leases.lease() as one:
        await one.add(Kind.BLOB, BLOB, BLOB)
        with leases.lease() as two:
            await two.add(Kind.BLOB, BLOB)
        assert leases.is_held(Kind.BLOB, BLOB)
    assert not leases.is_held(Kind.BLOB, BLOB)
