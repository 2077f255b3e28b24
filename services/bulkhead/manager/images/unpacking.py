"""Layers from blobs to directories: each once per chain id, whoever asks.

Whoever asks holds a lease on the layer; when no image comes of it, its owner has it collected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from bulkhead.content import media_types
from bulkhead.content.arriving import Arriving, Interrupted
from bulkhead.content.inflate import Limits
from bulkhead.content.manifests import MAX_LAYERS, Descriptor, Manifest
from bulkhead.content.turns import Turns
from bulkhead.errors import DataLoss, InvalidArgument
from bulkhead.manager.images.ports import Layers, Nameless, Settled
from bulkhead.manager.images.progress import Feed
from bulkhead.manager.images.records import Layer
from bulkhead.model.digest import Digest
from bulkhead.model.image import ImageConfig, chain_ids

_CONFIGS = frozenset({media_types.OCI_CONFIG, media_types.DOCKER_CONFIG})


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """One layer of an image that is coming."""

    blob: Descriptor
    diff_id: Digest
    chain_id: Digest
    below: tuple[Digest, ...]
    """The chain ids of the layers under it, base first."""


class Unpacker:
    """Unpacks layers, at most one operation per layer."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._turns = Turns()

    async def unpack(
        self,
        plan: LayerPlan,
        feed: Feed,
        status: str = "Extracting",
        *,
        arriving: Arriving | None = None,
        settled: Settled | None = None,
    ) -> Layer:
        """Have a layer here, from its blob in the content store, or from one that is still `arriving` there.

        `status` is told; `settled` see `Layers.unpack`, which also says what is raised.
        """
        ready = settled or _ready
        async with self._turns.of(plan.chain_id):
            size = self._layers.size(plan.chain_id)
            if size is None:
                size = await self._unpack(plan, feed, status, arriving, ready)
            else:
                await ready()
        return _layer(plan, size)

    async def make(self, source: BinaryIO, limits: Limits) -> Nameless:
        """See `Layers.make`."""
        with self._layers.quiet():
            return await self._layers.make(source, limits)

    async def keep(self, plan: LayerPlan, made: Nameless) -> Layer:
        """Have a layer here that was made, if it is not here yet. Raises ResourceExhausted."""
        async with self._turns.of(plan.chain_id):
            size = self._layers.size(plan.chain_id)
            if size is None:
                size = await self._layers.keep(made, plan.chain_id, plan.below)
        return _layer(plan, size)

    async def drop(self, made: Nameless) -> None:
        """See `Layers.drop`."""
        await self._layers.drop(made)

    async def _unpack(
        self, plan: LayerPlan, feed: Feed, status: str, arriving: Arriving | None, settled: Settled
    ) -> int:
        if arriving is not None and not arriving.is_whole:
            generation = arriving.generation
            try:
                return await self._once(plan, feed, status, arriving, settled)
            except (DataLoss, InvalidArgument, Interrupted):
                if arriving.is_whole and arriving.generation == generation:
                    raise
                # What is said of bytes that nobody had verified does not count. They may come once more.
                await arriving.verified()
        return await self._once(plan, feed, status, plan.blob.digest, settled)

    async def _once(self, plan: LayerPlan, feed: Feed, status: str, blob: Digest | Arriving, settled: Settled) -> int:
        short = plan.blob.digest.short

        def told(done: int) -> None:
            # While it is still downloading, that is what the user is told of.
            if not isinstance(blob, Arriving) or blob.is_whole:
                feed.count(status, short, done, plan.blob.size)

        with self._layers.quiet():
            return await self._layers.unpack(
                plan.chain_id, plan.below, blob, plan.blob.media_type, plan.diff_id, told, settled
            )


def _layer(plan: LayerPlan, size: int) -> Layer:
    return Layer(
        diff_id=plan.diff_id,
        chain_id=plan.chain_id,
        blob=plan.blob.digest,
        media_type=plan.blob.media_type,
        blob_size=plan.blob.size,
        size=size,
    )


async def _ready() -> None:
    """What lies below is in its place."""


def plan_layers(manifest: Manifest, config: ImageConfig) -> tuple[LayerPlan, ...]:
    """The layers of an image, base first: manifest and config must speak of the same ones. Raises InvalidArgument."""
    if manifest.config.media_type not in _CONFIGS:
        raise InvalidArgument(f"cannot use image: its config is {manifest.config.media_type!r}, not an image's")
    if len(manifest.layers) != len(config.diff_ids):
        raise InvalidArgument(
            f"cannot use image: its manifest has {len(manifest.layers)} layers, its config {len(config.diff_ids)}"
        )
    if len(manifest.layers) > MAX_LAYERS:
        raise InvalidArgument(f"cannot use image: more than {MAX_LAYERS} layers")
    for layer in manifest.layers:
        if layer.media_type not in media_types.LAYERS:
            raise InvalidArgument(f"cannot use image: layer media type {layer.media_type!r} is not supported")
    chains = chain_ids(config.diff_ids)
    return tuple(
        LayerPlan(blob=blob, diff_id=diff_id, chain_id=chain, below=chains[:position])
        for position, (blob, diff_id, chain) in enumerate(zip(manifest.layers, config.diff_ids, chains, strict=True))
    )
