"""Images in one tar that is an OCI layout and a Docker archive at once: what save writes and load reads.

    blobs/<alg>/<hex>     manifest, config and layers, as they were pulled
    index.json            OCI: which manifests, by what names
    manifest.json         Docker: the same, by config and layers
    repositories          Docker before 1.10
    oci-layout            the version of the first

Loading stages every file outside the store, and gives the store only what an image needs, when all of
it was found good: a refused archive leaves nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bulkhead.content import media_types
from bulkhead.content.blocking import Blocking, settle
from bulkhead.content.durable import disk_errors
from bulkhead.content.inflate import Limits
from bulkhead.content.manifests import (
    MAX_CONFIG,
    MAX_LAYERS,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    decode_object,
    parse_config,
    parse_manifest,
)
from bulkhead.content.platforms import HOST, choose, fits
from bulkhead.content.staging import Pulled, Staged, Staging, blob_name, stage
from bulkhead.content.store import BlobStore
from bulkhead.content.tarstream import BLOCK
from bulkhead.errors import DataLoss, InvalidArgument, NotFound
from bulkhead.model.digest import Digest
from bulkhead.model.reference import Reference, parse_reference

NAME_ANNOTATION = "io.containerd.image.name"
REF_ANNOTATION = "org.opencontainers.image.ref.name"
# Indexes within indexes: builders write two levels, nobody four (battery M03).
MAX_NESTING = 4
MAX_MEMBERS = 100_000
_PIECE = 1 << 20
_GZIP_MAGIC, _ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"

Send = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedImage:
    """An image to write: its manifest, which the store has with everything in it, and its names."""

    manifest: Manifest
    names: tuple[Reference, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedImage:
    """An image that was read: all its blobs are in the store."""

    manifest: Manifest
    config: ImageConfig
    names: tuple[Reference, ...]


async def write_archive(send: Send, store: BlobStore, images: Sequence[SavedImage]) -> None:
    """Write `images` as one tar, piece by piece to `send`. Raises NotFound when the store lacks a blob."""
    entries = [entry for image in images for entry in _blobs_of(image.manifest)]
    for descriptor in {entry.digest: entry for entry in entries}.values():
        await _send_blob(send, store, descriptor)
    for name, content in _metadata(images).items():
        data = json.dumps(content, separators=(",", ":")).encode()
        await send(_header(name, len(data)) + data + _padding(len(data)))
    await send(bytes(2 * BLOCK))


async def read_archive(
    stream: AsyncIterator[bytes], store: BlobStore, *, limits: Limits | None = None, platform: Platform | None = None
) -> list[LoadedImage]:
    """Load every image of a tar (plain or compressed) into `store`; with `platform` those alone that are for it.

    Raises InvalidArgument for what is no archive of images or a hostile one, DataLoss for damage,
    ResourceExhausted for a full disk, NotFound when nothing in it is for the platform; then nothing was added.
    """
    pulled = Pulled(stream, asyncio.get_running_loop())
    staging = Staging(store)
    # A thread of its own: it waits for the peer, and the store's few threads must not.
    thread = Blocking(1)
    reading = asyncio.ensure_future(thread.run(stage, pulled, staging, limits or Limits(entries=MAX_MEMBERS)))
    try:
        await asyncio.shield(reading)
        return await store.blocking.run(_images, staging, platform)
    finally:
        pulled.abort()
        await settle(reading)
        thread.close()
        await store.blocking.run(staging.discard)


def _blobs_of(manifest: Manifest) -> list[Descriptor]:
    own = Descriptor(media_type=manifest.media_type, digest=manifest.digest, size=manifest.size)
    return [own, manifest.config, *manifest.layers]


async def _send_blob(send: Send, store: BlobStore, descriptor: Descriptor) -> None:
    file = store.open_blob(descriptor.digest)
    try:
        await send(_header(blob_name(descriptor.digest), descriptor.size))
        left = descriptor.size
        while left:
            piece = await store.blocking.run(file.read, min(left, _PIECE))
            if not piece:
                raise DataLoss(f"cannot save blob {descriptor.digest}: it is shorter than its manifest says")
            left -= len(piece)
            await send(piece)
        await send(_padding(descriptor.size))
    finally:
        file.close()


def _metadata(images: Sequence[SavedImage]) -> dict[str, Any]:
    repositories: dict[str, dict[str, str]] = {}
    for image in images:
        for name in image.names:
            if name.tag is not None:
                repositories.setdefault(name.familiar_name, {})[name.tag] = image.manifest.config.digest.encoded
    index = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_INDEX,
        "manifests": [entry for image in images for entry in _index_entries(image)],
    }
    docker = [
        {
            "Config": blob_name(image.manifest.config.digest),
            "RepoTags": [name.familiar() for name in image.names if name.tag is not None] or None,
            "Layers": [blob_name(layer.digest) for layer in image.manifest.layers],
        }
        for image in images
    ]
    found: dict[str, Any] = {
        "index.json": index,
        "manifest.json": docker,
        "oci-layout": {"imageLayoutVersion": "1.0.0"},
    }
    return found | ({"repositories": repositories} if repositories else {})


def _index_entries(image: SavedImage) -> list[dict[str, Any]]:
    manifest = image.manifest
    entry = {"mediaType": manifest.media_type, "digest": str(manifest.digest), "size": manifest.size}
    named = [
        {**entry, "annotations": {NAME_ANNOTATION: name.canonical(), REF_ANNOTATION: name.tag}}
        for name in image.names
        if name.tag is not None
    ]
    return named or [entry]


def _header(name: str, size: int) -> bytes:
    """A ustar header; its time is zero, so that the same images are the same archive."""
    header = bytearray(BLOCK)
    header[: len(name)] = name.encode()
    header[100:108] = b"0000644\0"
    header[108:116] = header[116:124] = b"0000000\0"
    # Eleven octal digits end at 8 GiB; beyond, GNU's base 256.
    header[124:136] = f"{size:011o}\0".encode() if size < 8 << 30 else b"\x80" + size.to_bytes(11, "big")
    header[136:148] = b"00000000000\0"
    header[148:156] = b" " * 8
    header[156:157] = b"0"
    header[257:265] = b"ustar\x0000"
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


def _images(staging: Staging, platform: Platform | None) -> list[LoadedImage]:
    with disk_errors("load archive"):
        if "index.json" in staging.metadata:
            found = _oci_images(staging, platform or HOST)
        elif "manifest.json" in staging.metadata:
            found = _docker_images(staging)
        else:
            raise InvalidArgument("cannot load archive: it has neither index.json nor manifest.json")
        if platform is not None and not (found := [image for image in found if _is_for(image, platform)]):
            raise _none_for(platform)
        for image in found:
            for descriptor in reversed(_blobs_of(image.manifest)):
                _adopt(staging, descriptor)
    return found


def _adopt(staging: Staging, descriptor: Descriptor) -> None:
    staged = next((file for file in staging.files.values() if file.digest == descriptor.digest), None)
    if staged is not None and staged.path.exists():
        staging.store.adopt(staged.path, staged.digest)


def _oci_images(staging: Staging, platform: Platform) -> list[LoadedImage]:
    """Images of index.json, one for each manifest, with the names of all its entries."""
    index = parse_manifest(staging.metadata["index.json"])
    if not isinstance(index, Index):
        raise InvalidArgument("cannot load archive: index.json is no index")
    names: dict[Digest, list[Reference]] = {}
    images: dict[Digest, LoadedImage] = {}
    docker_names = _docker_names(staging)
    for entry in index.manifests:
        if entry.platform is not None and not fits(entry.platform, platform):
            continue
        manifest = _resolved(staging, entry, platform, 0)
        config = _config_of(staging, manifest)
        told = _names_of(entry) or docker_names.get(manifest.config.digest, ())
        names.setdefault(manifest.digest, []).extend(told)
        images[manifest.digest] = LoadedImage(
            manifest=manifest, config=config, names=tuple(dict.fromkeys(names[manifest.digest]))
        )
    if not images:
        raise _none_for(platform)
    return list(images.values())


def _is_for(image: LoadedImage, platform: Platform) -> bool:
    config = image.config
    return fits(Platform(os=config.os, architecture=config.architecture, variant=config.variant), platform)


def _none_for(platform: Platform) -> NotFound:
    wanted = "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)
    return NotFound(f"no matching manifest for {wanted} in the manifest list entries")


def _resolved(staging: Staging, entry: Descriptor, platform: Platform, depth: int) -> Manifest:
    if depth > MAX_NESTING:
        raise InvalidArgument(f"cannot load archive: indexes are nested deeper than {MAX_NESTING}")
    staged = staging.blob(entry.digest)
    body = staging.read(staged, MAX_CONFIG)
    document = parse_manifest(body, entry.media_type, entry.digest)
    if isinstance(document, Manifest):
        return document
    return _resolved(staging, choose(document, platform), platform, depth + 1)


def _config_of(staging: Staging, manifest: Manifest) -> ImageConfig:
    config = parse_config(staging.read(staging.blob(manifest.config.digest), MAX_CONFIG), manifest.config.digest)
    if len(config.diff_ids) != len(manifest.layers):
        raise InvalidArgument("cannot load archive: an image's config and manifest differ in their layers")
    for descriptor in (manifest.config, *manifest.layers):
        if staging.blob(descriptor.digest).size != descriptor.size:
            raise DataLoss(f"cannot load archive: blob {descriptor.digest} does not have {descriptor.size} bytes")
    return config


def _names_of(entry: Descriptor) -> tuple[Reference, ...]:
    full = entry.annotations.get(NAME_ANNOTATION) or ""
    short = entry.annotations.get(REF_ANNOTATION) or ""
    # The second holds a tag only, or a whole name: the slash or colon tells.
    text = full or (short if "/" in short or ":" in short else "")
    return (parse_reference(text).with_default_tag(),) if text else ()


def _docker_names(staging: Staging) -> dict[Digest, tuple[Reference, ...]]:
    if "manifest.json" not in staging.metadata:
        return {}
    return {staging.find(entry.config).digest: entry.names for entry in _docker_entries(staging)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _DockerEntry:
    """One image of manifest.json."""

    config: str
    names: tuple[Reference, ...]
    layers: tuple[str, ...]


def _docker_entries(staging: Staging) -> list[_DockerEntry]:
    # The file is a list: wrapped, it is read as carefully as every other document.
    wrapped = b'{"images":' + staging.metadata["manifest.json"] + b"}"
    images = decode_object(wrapped, MAX_CONFIG + 16, "manifest.json")["images"]
    if not isinstance(images, list):
        raise InvalidArgument("cannot load archive: manifest.json is no list")
    return [_docker_entry(image) for image in images]


def _docker_entry(image: Any) -> _DockerEntry:
    if not isinstance(image, dict):
        raise InvalidArgument("cannot load archive: manifest.json holds something else than images")
    config, tags, layers = image.get("Config"), image.get("RepoTags") or [], image.get("Layers") or []
    strings = [config, *tags, *layers] if isinstance(tags, list) and isinstance(layers, list) else [None]
    if not all(isinstance(text, str) for text in strings):
        raise InvalidArgument("cannot load archive: an image of manifest.json is malformed")
    if len(layers) > MAX_LAYERS:
        raise InvalidArgument(f"cannot load archive: an image has more than {MAX_LAYERS} layers")
    names = tuple(parse_reference(tag).with_default_tag() for tag in tags)
    return _DockerEntry(config=str(config), names=names, layers=tuple(layers))


def _docker_images(staging: Staging) -> list[LoadedImage]:
    return [_docker_image(staging, entry) for entry in _docker_entries(staging)]


def _docker_image(staging: Staging, entry: _DockerEntry) -> LoadedImage:
    """An image that never had a manifest gets one: the same files always make the same."""
    staged = staging.find(entry.config)
    config = parse_config(staging.read(staged, MAX_CONFIG), staged.digest)
    layers = [staging.find(name) for name in entry.layers]
    if len(layers) != len(config.diff_ids):
        raise InvalidArgument("cannot load archive: an image's config and manifest differ in their layers")
    for layer, diff_id in zip(layers, config.diff_ids, strict=True):
        if _layer_type(layer) == media_types.OCI_LAYER and layer.digest != diff_id:
            raise DataLoss(f"cannot load archive: a layer has diff id {layer.digest}, not {diff_id}")
    document = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": _wire(media_types.OCI_CONFIG, staged),
        "layers": [_wire(_layer_type(layer), layer) for layer in layers],
    }
    body = json.dumps(document, separators=(",", ":")).encode()
    manifest = parse_manifest(body)
    assert isinstance(manifest, Manifest)
    staging.files[blob_name(manifest.digest)] = staging.write([body], manifest.digest.algorithm)
    return LoadedImage(manifest=manifest, config=config, names=entry.names)


def _layer_type(staged: Staged) -> str:
    if staged.head.startswith(_GZIP_MAGIC):
        return media_types.OCI_LAYER_GZIP
    return media_types.OCI_LAYER_ZSTD if staged.head.startswith(_ZSTD_MAGIC) else media_types.OCI_LAYER


def _wire(media_type: str, staged: Staged) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(staged.digest), "size": staged.size}
