"""The image part of the manager, put together: the only module here that knows the adapters.

    images = ImageService(database, instance, ImagesConfig(), publish, image_users)
    async with images:                          # content store locked and opened, records loaded
        await images.recover(container_ids)     # once the containers' records are loaded, before serving
        serve([images.servicer, ...])
        image = await images.store.resolve("busybox")            # ResolvedImage(id, config, reference, chain_ids)
        dirs = await images.snapshots.prepare(container_id, image.id)     # OverlayDirs(lower, upper, work)
        await images.snapshots.remove(container_id)

`publish(type, action, actor_id, attributes)` is awaited (see ports.py); `image_users` is asked whenever an image may be
removed, and must know every container that has a record.
Between `resolve` and the moment the container's record exists, hold the image:
`with images.store.holding(image.id): ...` (nobody can remove it meanwhile).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from pathlib import Path
from types import TracebackType

import structlog

from bulkhead.content.arriving import Arriving
from bulkhead.content.store import BlobStore
from bulkhead.content.transport import Transport
from bulkhead.content.unpack import UnpackResult, unpack_layer
from bulkhead.manager.adapters.database import Database
from bulkhead.manager.adapters.image_records import SqliteImageRecords
from bulkhead.manager.adapters.overlay import LayerDirectories, OverlaySnapshots
from bulkhead.manager.adapters.registries import HttpRegistries
from bulkhead.manager.adapters.trash import Trash
from bulkhead.manager.images.archives import Archives
from bulkhead.manager.images.checker import Checker
from bulkhead.manager.images.collector import Collector
from bulkhead.manager.images.committing import Committer
from bulkhead.manager.images.config import ImagesConfig
from bulkhead.manager.images.distribution import Distribution
from bulkhead.manager.images.importing import Importer
from bulkhead.manager.images.intake import Intake
from bulkhead.manager.images.leases import Leases
from bulkhead.manager.images.ledger import Ledger
from bulkhead.manager.images.login import Login
from bulkhead.manager.images.making import Maker
from bulkhead.manager.images.ports import ImageUsers, Publish, Told
from bulkhead.manager.images.pull import Puller
from bulkhead.manager.images.push import Pusher
from bulkhead.manager.images.recovery import Recovery, boot_id
from bulkhead.manager.images.search import Search
from bulkhead.manager.images.store import ImageStore
from bulkhead.manager.images.transfers import Transfers
from bulkhead.manager.images.unpacking import Unpacker
from bulkhead.manager.images.watermarks import Watermarks
from bulkhead.manager.servicers.images import ImagesServicer
from bulkhead.manager.servicers.registries import RegistriesServicer
from bulkhead.manager.servicers.upkeep import UpkeepServicer
from bulkhead.model.digest import Digest
from bulkhead.model.instance import Instance

log = structlog.get_logger()


class ImageService:
    """Images of one installation; an async context manager, entered once."""

    def __init__(
        self,
        database: Database,
        instance: Instance,
        config: ImagesConfig,
        publish: Publish,
        image_users: ImageUsers,
    ) -> None:
        snapshots = instance.data / "snapshots"
        boot = boot_id()
        records = SqliteImageRecords(database)
        leases = Leases()
        self._content = BlobStore(instance.data / "content")
        self._ledger = Ledger(records, boot)
        self.transfers = Transfers()
        self._unpacking = asyncio.Semaphore(config.max_concurrent_downloads)
        self._trash = Trash(snapshots / "trash")
        self._layers = LayerDirectories(snapshots, self._trash, self._unpack)
        self._collector = Collector(self._ledger, self._content, self._layers, leases, image_users)
        self.store = ImageStore(self._ledger, leases, self._collector, publish, image_users)
        self.snapshots = OverlaySnapshots(snapshots, self._layers, self.store.chains_of, self._trash)
        self.snapshots.after_removal(self._collector.kick)
        unpacker = Unpacker(self._layers)
        self._recovery = Recovery(self._ledger, records, self._layers, unpacker, self._collector, boot)
        intake = Intake(
            ledger=self._ledger,
            store=self._content,
            unpacker=unpacker,
            leases=leases,
            collector=self._collector,
            publish=publish,
            unpacked=self._recovery.unpacked,
        )
        self._watermarks = Watermarks(self.store, self._layers, config.watermarks)
        self._stack = contextlib.AsyncExitStack()
        self._use_cases(intake, _registries(self._content, instance, config), config)
        self.upkeep = UpkeepServicer(self._checker(intake, records, image_users))

    def _checker(self, intake: Intake, records: SqliteImageRecords, users: ImageUsers) -> Checker:
        return Checker(
            ledger=intake.ledger,
            records=records,
            store=intake.store,
            layers=self._layers,
            unpacker=intake.unpacker,
            leases=intake.leases,
            fetch=self._puller.fetch_again,
            snapshots=self.snapshots,
            users=users,
        )

    def _use_cases(self, intake: Intake, registries: HttpRegistries, config: ImagesConfig) -> None:
        maker = Maker(intake)
        self.committer = Committer(maker, intake.ledger)
        self.importer = Importer(maker, intake.publish)
        distribution = Distribution(registries, intake.store, intake.leases, intake.collector)
        self.registries = RegistriesServicer(Search(registries), distribution, Login(registries))
        self._puller = Puller(intake, self._layers, registries, downloads=config.max_concurrent_downloads)
        pusher = Pusher(
            ledger=intake.ledger,
            store=intake.store,
            registries=registries,
            leases=intake.leases,
            publish=intake.publish,
            uploads=config.max_concurrent_uploads,
        )
        self.servicer = ImagesServicer(self.store, self._puller, pusher, Archives(intake), self.transfers)

    async def __aenter__(self) -> ImageService:
        async with contextlib.AsyncExitStack() as stack:
            await asyncio.to_thread(self._content.open)
            stack.callback(self._content.close)
            await stack.enter_async_context(self._trash)
            self._layers.open()
            self.snapshots.open()
            await self._ledger.open()
            stack.push_async_callback(self._ledger.close)
            for keeper in (self._collector.run(), self._recovery.run(), self._watermarks.run()):
                stack.push_async_callback(_end, asyncio.create_task(keeper))
            stack.push_async_callback(self.transfers.close)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def recover(self, container_ids: Collection[str]) -> None:
        """Sweep what no record owns: half-unpacked layers, writable layers of unknown containers, blobs.

        Layers that a power loss may have torn are unpacked again from their blobs.
        """
        await self.snapshots.recover(container_ids)
        await self._recovery.recover()

    async def _unpack(
        self, blob: Digest | Arriving, media_type: str, target: Path, diff_id: Digest, told: Told
    ) -> UnpackResult:
        if isinstance(blob, Arriving):
            # Nobody waits for a turn at the processors with nothing to do there.
            await blob.begun()
        source = blob if isinstance(blob, Arriving) else self._content.path(blob)
        async with self._unpacking:
            return await unpack_layer(source, media_type, target, diff_id, told)


async def _end(keeper: asyncio.Task[None]) -> None:
    keeper.cancel()
    await asyncio.wait([keeper])
    if not keeper.cancelled() and (error := keeper.exception()) is not None:
        log.error("a task of the image part had died", error=repr(error))


def _registries(store: BlobStore, instance: Instance, config: ImagesConfig) -> HttpRegistries:
    return HttpRegistries(
        store=store,
        mirrors=(instance.registry,) if config.mirrors is None else config.mirrors,
        transport=Transport(insecure=config.insecure_registries, proxies=config.proxies),
    )
