"""Images that are made here: a config, at most one new layer on top of another image, a manifest, perhaps a name.

What is made is what a registry would have given: every blob of it is in the store, so that it is pushed and saved as
it is. An image has its record when its layers are unpacked; what was not completed leaves nothing.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from bulkhead.content import media_types
from bulkhead.content.manifests import MAX_CONFIG, Descriptor, Manifest, decode_object, parse_manifest
from bulkhead.content.platforms import HOST
from bulkhead.content.store import BlobStore
from bulkhead.errors import Unavailable
from bulkhead.manager.images.catalogue import Change, Tag, bound_name
from bulkhead.manager.images.filters import created
from bulkhead.manager.images.intake import Intake
from bulkhead.manager.images.layering import Layering, MadeLayer
from bulkhead.manager.images.leases import Kind, Lease
from bulkhead.manager.images.progress import Feed
from bulkhead.manager.images.records import ImageRecord
from bulkhead.manager.images.records import Layer as UnpackedLayer
from bulkhead.manager.images.unpacking import plan_layers
from bulkhead.model.digest import Digest
from bulkhead.model.image import ImageConfig, image_config
from bulkhead.model.reference import Reference

# Docker's names of layers, and OCI's for the same bytes: what we write is an OCI manifest.
_AS_OCI = {
    media_types.DOCKER_LAYER: media_types.OCI_LAYER,
    media_types.DOCKER_LAYER_GZIP: media_types.OCI_LAYER_GZIP,
    media_types.DOCKER_LAYER_ZSTD: media_types.OCI_LAYER_ZSTD,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """An image to be made."""

    config: ImageConfig
    layer: MadeLayer
    parent: ImageRecord | None = None
    author: str = ""
    comment: str = ""
    created_by: str = ""
    name: Reference | None = None
    platform: Mapping[str, str] = field(default_factory=dict)
    """`os`, `architecture` and perhaps `variant` of an image without parent; the host's by default."""


class Maker:
    """Makes images."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    @property
    def store(self) -> BlobStore:
        """Where layers of recipes must be."""
        return self._intake.store

    @contextlib.asynccontextmanager
    async def layering(self) -> AsyncIterator[Layering]:
        """Enter to make a layer, and an image of it: what is not taken by `make` is gone when this is left."""
        layering = Layering(self._intake.store, self._intake.unpacker, self._intake.collector)
        # No sweep takes the blob before `make` does.
        with self._intake.leases.unsettled():
            try:
                yield layering
            finally:
                await layering.discard()

    async def make(self, recipe: Recipe) -> ImageRecord:
        """The new image. Raises InvalidArgument for a hostile layer, DataLoss, ResourceExhausted."""
        with self._intake.leases.unsettled(), self._intake.leases.lease() as lease:
            blobs = {recipe.layer.blob.digest}
            try:
                await lease.add(Kind.BLOB, recipe.layer.blob.digest)
                if recipe.parent is not None:
                    await lease.add(Kind.IMAGE, recipe.parent.id)
                    await lease.add(Kind.BLOB, *recipe.parent.blobs)
                body = json.dumps(_document(recipe), separators=(",", ":"), ensure_ascii=False).encode()
                config = Descriptor(media_type=media_types.OCI_CONFIG, digest=Digest.of(body), size=len(body))
                manifest_body = _manifest(recipe, config)
                manifest = parse_manifest(manifest_body, media_types.OCI_MANIFEST)
                assert isinstance(manifest, Manifest)
                blobs |= {config.digest, manifest.digest}
                await lease.add(Kind.BLOB, *blobs)
                await self._intake.store.put(body, config.digest)
                await self._intake.store.put(manifest_body, manifest.digest)
                return await self._record(recipe, manifest, body, lease)
            finally:
                lease.release()
                await self._intake.collector.free_layers(lease.names(Kind.LAYER))
                await self._intake.collector.free_blobs(blobs)

    async def _record(self, recipe: Recipe, manifest: Manifest, body: bytes, lease: Lease) -> ImageRecord:
        config = image_config(decode_object(body, MAX_CONFIG, "image config"))
        plan = plan_layers(manifest, config)
        await lease.add(Kind.IMAGE, manifest.config.digest)
        await lease.add(Kind.LAYER, *(layer.chain_id for layer in plan))
        missing = [layer.blob.digest for layer in plan if not self._intake.store.has(layer.blob.digest)]
        if missing:
            raise Unavailable(f"cannot make image: blob {missing[0]} was collected meanwhile, try again")
        mine = 0 if recipe.layer.is_empty else 1
        layers = [await self._intake.unpacker.unpack(layer, Feed()) for layer in plan[: len(plan) - mine]]
        layers += [await self._intake.unpacker.keep(layer, recipe.layer.unpacked) for layer in plan[len(layers) :]]
        image = record_of(manifest, config, body, layers)
        await self._enter(image, recipe.name)
        return image

    async def _enter(self, image: ImageRecord, name: Reference | None) -> None:
        tags = {bound_name(name): Tag(image=image.id, tagged_at=time.time_ns())} if name is not None else {}
        await self._intake.ledger.change(lambda: (Change(images=(image,), tags=tags), None))
        self._intake.unpacked()
        if name is not None:
            attributes = {**image.config.labels, "name": name.familiar()}
            await self._intake.publish("image", "tag", str(image.id), attributes)


def record_of(manifest: Manifest, config: ImageConfig, body: bytes, layers: Sequence[UnpackedLayer]) -> ImageRecord:
    """The record of an image whose layers are all unpacked; `body` is its config as it is stored."""
    return ImageRecord(
        id=manifest.config.digest,
        config=config,
        config_json=body,
        manifest=manifest.digest,
        manifest_media_type=manifest.media_type,
        manifest_size=manifest.size,
        layers=tuple(layers),
        created_at=created(config.created),
    )


def _document(recipe: Recipe) -> dict[str, Any]:
    """The image's config (OCI image-spec, config.md)."""
    below = decode_object(recipe.parent.config_json, MAX_CONFIG, "image config") if recipe.parent else {}
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    diff_ids = [str(layer.diff_id) for layer in recipe.parent.layers] if recipe.parent else []
    step = {"created": now, "created_by": recipe.created_by, "author": recipe.author, "comment": recipe.comment}
    history = {key: value for key, value in step.items() if value} | (
        {"empty_layer": True} if recipe.layer.is_empty else {}
    )
    platform = {key: below[key] for key in ("architecture", "os", "variant") if below.get(key)} or recipe.platform
    return {
        **({"author": recipe.author} if recipe.author else {}),
        "architecture": HOST.architecture,
        "os": HOST.os,
        **platform,
        "created": now,
        # Docker's older configs had this, its clients ask what an image was committed from.
        **({"parent": str(recipe.parent.id)} if recipe.parent else {}),
        "config": _process(recipe.config),
        "history": [*(below.get("history") or []), history],
        "rootfs": {
            "type": "layers",
            "diff_ids": diff_ids if recipe.layer.is_empty else [*diff_ids, str(recipe.layer.diff_id)],
        },
    }


def _process(config: ImageConfig) -> dict[str, Any]:
    """The config's own `config`: only what is said."""
    check = config.healthcheck
    said: dict[str, Any] = {
        "User": config.user,
        "ExposedPorts": {port: {} for port in config.exposed_ports},
        "Env": list(config.env),
        "Entrypoint": None if config.entrypoint is None else list(config.entrypoint),
        "Cmd": None if config.cmd is None else list(config.cmd),
        "Volumes": {path: {} for path in config.volumes},
        "WorkingDir": config.working_dir,
        "Labels": dict(config.labels),
        "StopSignal": config.stop_signal,
        "Shell": list(config.shell),
        "OnBuild": list(config.on_build),
    }
    if check is not None:
        told = {
            "Test": list(check.test),
            "Interval": check.interval,
            "Timeout": check.timeout,
            "StartPeriod": check.start_period,
            "StartInterval": check.start_interval,
            "Retries": check.retries,
        }
        said["Healthcheck"] = {key: value for key, value in told.items() if value}
    return {key: value for key, value in said.items() if value}


def _manifest(recipe: Recipe, config: Descriptor) -> bytes:
    layers = [
        _wire(_AS_OCI.get(layer.media_type, layer.media_type), layer.blob, layer.blob_size)
        for layer in (recipe.parent.layers if recipe.parent else ())
    ]
    made = recipe.layer.blob
    if not recipe.layer.is_empty:
        layers.append(_wire(made.media_type, made.digest, made.size))
    document = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": _wire(config.media_type, config.digest, config.size),
        "layers": layers,
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _wire(media_type: str, digest: Digest, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(digest), "size": size}
