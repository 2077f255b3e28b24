"""The image part of the manager, put together: the only module here that knows the adapters.

    images = ImageService(database, instance, ImagesConfig(), publish, image_users)
    async with images:                          # content store locked and opened, records loaded
        await images.recover(container_ids)     # once the containers' records are loaded, before serving
        serve([images.servicer, ...])
        image = await images.store.resolve("busybox")            # ResolvedImage(id, config, reference, chain_ids)
        dirs = await images.snapshots.prepare(container_id, image.id)     # OverlayDirs(lower, upper, work)
        await images.snapshots.remove(container_id)

`publish(type, action, actor_id, attributes)` is awaited (see ports.py); `image_users()` is called whenever an
image may be removed, and must name every container that has a record.
Between `resolve` and the moment the container's record exists, hold the image:
`with images.store.holding(image.id): ...` (nobody can remove it meanwhile).
"""

from __future__ import annotations

from collections.abc import Collection
from types import TracebackType

from bulkhead.manager.adapters.database import Database
from bulkhead.manager.adapters.overlay import OverlaySnapshots
from bulkhead.manager.images.config import ImagesConfig
from bulkhead.manager.images.ports import ImageUsers, Publish
from bulkhead.manager.images.store import ImageStore
from bulkhead.manager.servicers.images import ImagesServicer
from bulkhead.model.instance import Instance


class ImageService:
    """Images of one installation."""

    store: ImageStore
    snapshots: OverlaySnapshots
    servicer: ImagesServicer

    def __init__(
        self,
        database: Database,
        instance: Instance,
        config: ImagesConfig,
        publish: Publish,
        image_users: ImageUsers,
    ) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> ImageService:
        raise NotImplementedError

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise NotImplementedError

    async def recover(self, container_ids: Collection[str]) -> None:
        """Sweep what no record owns: half-unpacked layers, writable layers of unknown containers, blobs."""
        raise NotImplementedError
