"""Pull-through as the configuration wants it, put together below `<root>/cache`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from bulkhead.content.blocking import Blocking
from bulkhead.content.client import Registry
from bulkhead.content.retries import Patience
from bulkhead.content.store import BlobStore
from bulkhead.content.transport import Transport
from bulkhead.registry.upstreams import tables
from bulkhead.registry.upstreams.eviction import Evictor
from bulkhead.registry.upstreams.fills import Fills
from bulkhead.registry.upstreams.index import Index
from bulkhead.registry.upstreams.pulls import Pulls
from bulkhead.registry.upstreams.tables import CacheTable, UpstreamTable
from bulkhead.registry.upstreams.upstream import Cache, Upstream

# A client waits meanwhile, and has patience of its own.
PATIENCE = Patience(attempts=3, backoff=0.25, longest_backoff=5.0, connect=10.0, idle=30.0)


@asynccontextmanager
async def pulling_through(
    root: Path, upstreams: Sequence[UpstreamTable], table: CacheTable, patience: Patience = PATIENCE
) -> AsyncIterator[Pulls]:
    """The pull-through endpoints; raises InvalidArgument, Conflict. Nothing is opened where there is no upstream."""
    store = BlobStore(root / "cache")
    if not upstreams:
        yield Pulls({}, "", store)
        return
    async with AsyncExitStack() as stack:
        store.open()
        stack.callback(store.close)
        blocking = Blocking(1)
        stack.callback(blocking.close)
        index = Index(root / "cache" / "index.sqlite")
        index.open()
        stack.callback(index.close)
        fills = await stack.enter_async_context(Fills().open())
        cache = Cache(store=store, index=index, fills=fills, blocking=blocking, largest=table.max_blob_bytes)
        transport = Transport(insecure=tables.insecure(upstreams))
        found = {}
        for told in upstreams:
            credentials = tables.credentials(told)
            remote = Registry(tables.address(told), transport=transport, auth=credentials, patience=patience)
            upstream = Upstream(told, await stack.enter_async_context(remote), cache)
            stack.push_async_callback(upstream.close)
            found[told.name] = upstream
        sweeper = asyncio.create_task(Evictor(cache, table).run())
        stack.push_async_callback(_ended, sweeper)
        fallback = next((told.name for told in upstreams if told.fallback), "")
        yield Pulls(found, fallback, store)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
