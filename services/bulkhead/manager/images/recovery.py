"""What the image part does at boot, and what it makes good behind everybody's back.

A pull is acknowledged when its records are durable, but the files of its layers are left to the kernel to
write: bringing 200 MB to the disk first would double the time of a pull. The records know which layers are not
yet on disk; a task here syncs them and notes it. Should power be lost in between, the next boot finds layers
of another boot that were never synced, and unpacks those again from their blobs, which are on disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path

import structlog

from bulkhead.content.manifests import Descriptor
from bulkhead.errors import BulkheadError
from bulkhead.manager.images.collector import Collector
from bulkhead.manager.images.ledger import Ledger
from bulkhead.manager.images.ports import Layers, Records
from bulkhead.manager.images.progress import Feed
from bulkhead.manager.images.unpacking import LayerPlan, Unpacker
from bulkhead.model.digest import Digest

log = structlog.get_logger()
# Between sweeps for what interrupted pulls left (seconds).
_SWEEP_INTERVAL = 3600.0


class Recovery:
    """Brings disk and records together."""

    def __init__(
        self, ledger: Ledger, records: Records, layers: Layers, unpacker: Unpacker, collector: Collector, boot: str
    ) -> None:
        self._ledger = ledger
        self._records = records
        self._layers = layers
        self._unpacker = unpacker
        self._collector = collector
        self._boot = boot
        self._unsynced = asyncio.Event()

    async def recover(self) -> None:
        """Sweep what no record owns; make whole what a record promises. A second run changes nothing."""
        self._layers.keep_only(self._ledger.books.chains())
        unsynced = await self._records.unsynced()
        torn = {chain for chain, boot in unsynced.items() if boot != self._boot}
        for plan in self._plans():
            if plan.chain_id in torn or self._layers.size(plan.chain_id) is None:
                await self._unpack_again(plan)
        await self._collector.drop_unused()
        await self._collector.sweep()
        if unsynced:
            self._unsynced.set()

    def unpacked(self) -> None:
        """New layers are in the records: have them on disk soon."""
        self._unsynced.set()

    async def run(self) -> None:
        """For ever: sync what was unpacked; look for what interrupted pulls left."""
        while True:
            try:
                async with asyncio.timeout(_SWEEP_INTERVAL):
                    await self._unsynced.wait()
            except TimeoutError:
                await self._reported(self._collector.sweep())
                continue
            self._unsynced.clear()
            await self._reported(self._sync())

    async def _sync(self) -> None:
        unsynced = await self._records.unsynced()
        await self._layers.sync()
        await self._records.mark_synced(unsynced)

    async def _reported(self, work: Awaitable[object]) -> None:
        try:
            await work
        except BulkheadError as error:
            # Nothing is lost: what was not done stays marked and is done the next time.
            log.warning("cannot tidy images", reason=str(error))

    async def _unpack_again(self, plan: LayerPlan) -> None:
        try:
            await self._layers.discard(plan.chain_id)
            await self._unpacker.unpack(plan, Feed())
        except BulkheadError as error:
            # The image stays listed, and says what is wrong when it is used; pulling it again heals it.
            log.error("cannot restore layer", layer=str(plan.chain_id), reason=str(error))

    def _plans(self) -> list[LayerPlan]:
        plans: dict[Digest, LayerPlan] = {}
        for image in self._ledger.books.all_images():
            chains = tuple(layer.chain_id for layer in image.layers)
            for position, layer in enumerate(image.layers):
                blob = Descriptor(media_type=layer.media_type, digest=layer.blob, size=layer.blob_size)
                plans[layer.chain_id] = LayerPlan(
                    blob=blob, diff_id=layer.diff_id, chain_id=layer.chain_id, below=chains[:position]
                )
        return list(plans.values())


def boot_id() -> str:
    """This boot of the machine, as the kernel calls it (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
