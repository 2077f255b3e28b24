"""A layer that is made here: one stream becomes its blob and its directory, side by side.

The directory has no name until an image is made of it. What no image has taken in the end leaves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from typing import Any, BinaryIO

from bulkhead.content.blocking import Blocking, settle
from bulkhead.content.inflate import Codec, Limits, Reader
from bulkhead.content.layerblobs import EMPTY_LAYER, Unread, store_layer
from bulkhead.content.manifests import Descriptor
from bulkhead.content.store import BlobStore
from bulkhead.manager.images.collector import Collector
from bulkhead.manager.images.ports import Nameless
from bulkhead.manager.images.unpacking import Unpacker
from bulkhead.model.digest import Digest

_PIPE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeLayer:
    """A layer whose blob is in the store, and which is unpacked."""

    blob: Descriptor
    unpacked: Nameless

    @property
    def diff_id(self) -> Digest:
        return self.unpacked.diff_id

    @property
    def is_empty(self) -> bool:
        return self.diff_id == EMPTY_LAYER


class Layering:
    """Makes one layer; `discard` when its image is made, or will not be."""

    def __init__(self, store: BlobStore, unpacker: Unpacker, collector: Collector) -> None:
        self._store = store
        self._unpacker = unpacker
        self._collector = collector
        self._blobs: list[Digest] = []
        self._unpacked: list[Nameless] = []

    async def make(
        self, read: Reader, codec: Codec, limits: Limits, blocking: Blocking, stop: Callable[[], None] = lambda: None
    ) -> MadeLayer:
        """The layer of the tar that `read` gives, packed as `codec` says; it is read in a thread of `blocking`.

        `stop` lets no `read` wait any longer. Raises InvalidArgument for a hostile one or a bomb, DataLoss for a
        damaged one, ResourceExhausted for a full disk.
        """
        receiving, sending = _pipe()
        with receiving, sending:
            storing = asyncio.ensure_future(blocking.run(store_layer, read, codec, self._store, limits, sending))
            unpacking = asyncio.ensure_future(self._unpacker.make(receiving, limits))
            try:
                return await self._both(storing, unpacking, receiving)
            finally:
                stop()
                unpacking.cancel()
                await self._ended(storing, unpacking, receiving)

    async def discard(self) -> None:
        """Let go of what was made, but for what an image has taken."""
        for made in self._unpacked:
            await self._unpacker.drop(made)
        await self._collector.free_blobs(self._blobs)

    async def _both(
        self, storing: asyncio.Future[Descriptor], unpacking: asyncio.Future[Nameless], receiving: BinaryIO
    ) -> MadeLayer:
        both: list[asyncio.Future[Any]] = [storing, unpacking]
        await asyncio.wait(both, return_when=asyncio.FIRST_EXCEPTION)
        # Of two failures the cause is told: one stops reading where the other has failed.
        if storing.done() and not isinstance(storing.exception(), Unread):
            storing.result()
        await asyncio.wait([unpacking])
        return MadeLayer(unpacked=unpacking.result(), blob=storing.result())

    async def _ended(
        self, storing: asyncio.Future[Descriptor], unpacking: asyncio.Future[Nameless], receiving: BinaryIO
    ) -> None:
        """Wait for both, and remember what there is."""
        await settle(unpacking)
        # Who still writes shall hear that nobody reads.
        receiving.close()
        await settle(storing)
        if not unpacking.cancelled() and unpacking.exception() is None:
            self._unpacked.append(unpacking.result())
        if storing.exception() is None:
            self._blobs.append(storing.result().digest)


def _pipe() -> tuple[FileIO, FileIO]:
    receiving, sending = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        fcntl.fcntl(sending, fcntl.F_SETPIPE_SZ, _PIPE)
    return FileIO(receiving, "rb"), FileIO(sending, "wb")
