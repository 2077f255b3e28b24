"""Manifests, indexes and image configs: hostile JSON in, frozen types out.

One document must mean one thing to everybody (CVE-2021-41190): no duplicate keys, no mixture of index
and manifest, no contradiction between the document's mediaType and what carried it. The bytes are
never rewritten; a digest is over the bytes as they came.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate, count
from operator import sub
from types import MappingProxyType
from typing import Any, NoReturn

import msgspec

from bulkhead.content import media_types
from bulkhead.errors import InvalidArgument
from bulkhead.model.digest import Digest

# Limits of the security battery (M03); registries in use accept manifests up to 4 MiB.
MAX_MANIFEST = 4 << 20
MAX_CONFIG = 8 << 20
MAX_DEPTH = 64
MAX_LAYERS = 127
MAX_SIZE = 1 << 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What a manifest of an index runs on."""

    os: str
    architecture: str
    variant: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A pointer to content: type, digest, size."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    urls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """An image manifest (or an artifact in its shape)."""

    media_type: str
    digest: Digest
    size: int
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """A list of manifests, one per platform."""

    media_type: str
    digest: Digest
    size: int
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One step of how an image was made."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """An image's config blob. `process` is its `config` object as it came (User, Env, Cmd, Labels, …)."""

    digest: Digest
    size: int
    architecture: str
    os: str
    variant: str = ""
    created: str = ""
    author: str = ""
    docker_version: str = ""
    diff_ids: tuple[Digest, ...]
    history: tuple[HistoryEntry, ...] = ()
    process: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


class _Platform(msgspec.Struct, rename="camel"):
    os: str = ""
    architecture: str = ""
    variant: str = ""


class _Descriptor(msgspec.Struct, rename="camel"):
    media_type: str
    digest: str
    size: int
    platform: _Platform | None = None
    artifact_type: str = ""
    annotations: dict[str, str] | None = None
    urls: list[str] | None = None


class _Document(msgspec.Struct, rename="camel"):
    """Any manifest or index; which of the two is decided by the keys that are there."""

    schema_version: int
    media_type: str = ""
    artifact_type: str = ""
    config: _Descriptor | None = None
    layers: list[_Descriptor] | None = None
    manifests: list[_Descriptor] | None = None
    subject: _Descriptor | None = None
    annotations: dict[str, str] | None = None


class _RootFs(msgspec.Struct):
    type: str
    diff_ids: list[str]


class _History(msgspec.Struct):
    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool | None = None


class _Config(msgspec.Struct):
    rootfs: _RootFs
    architecture: str = ""
    os: str = ""
    variant: str = ""
    created: str | None = None
    author: str | None = None
    docker_version: str | None = None
    history: list[_History] | None = None
    config: dict[str, Any] | None = None


_DocumentDecoder = msgspec.json.Decoder(_Document)
_ConfigDecoder = msgspec.json.Decoder(_Config)


def parse_manifest(body: bytes, media_type: str | None = None, digest: Digest | None = None) -> Manifest | Index:
    """Read a manifest or an index that was carried as `media_type` (None: the document must say).

    `digest` is trusted as computed by the caller. Raises InvalidArgument.
    """
    _check_json(body, MAX_MANIFEST, "manifest")
    try:
        document = _DocumentDecoder.decode(body)
    except msgspec.MsgspecError as error:
        _refuse(str(error), error)
    kind = _kind(document, media_types.bare(media_type) if media_type else "")
    shared: dict[str, Any] = {
        "media_type": kind,
        "digest": digest or Digest.of(body),
        "size": len(body),
        "subject": _descriptor(document.subject) if document.subject is not None else None,
        "artifact_type": document.artifact_type,
        "annotations": MappingProxyType(document.annotations or {}),
    }
    if kind in media_types.INDEXES:
        return Index(manifests=tuple(_descriptor(entry) for entry in document.manifests or ()), **shared)
    if document.config is None:
        _refuse("it has no config")
    layers = tuple(_descriptor(entry) for entry in document.layers or ())
    return Manifest(config=_descriptor(document.config), layers=layers, **shared)


def parse_config(body: bytes, digest: Digest | None = None) -> ImageConfig:
    """Read an image's config blob; raises InvalidArgument."""
    _check_json(body, MAX_CONFIG, "image config")
    try:
        config = _ConfigDecoder.decode(body)
    except msgspec.MsgspecError as error:
        _refuse(str(error), error, "image config")
    if config.rootfs.type != "layers":
        _refuse(f"rootfs type {config.rootfs.type!r} is not known", what="image config")
    if len(config.rootfs.diff_ids) > MAX_LAYERS:
        _refuse(f"more than {MAX_LAYERS} layers", what="image config")
    return ImageConfig(
        digest=digest or Digest.of(body),
        size=len(body),
        architecture=config.architecture,
        os=config.os,
        variant=config.variant,
        created=config.created or "",
        author=config.author or "",
        docker_version=config.docker_version or "",
        diff_ids=tuple(Digest.parse(text) for text in config.rootfs.diff_ids),
        history=tuple(_history(entry) for entry in config.history or ()),
        process=MappingProxyType(config.config or {}),
    )


def decode_object(body: bytes, limit: int, what: str) -> dict[str, Any]:
    """Hostile JSON as a dict: bounded, UTF-8, no duplicate keys, no NaN. Raises InvalidArgument."""
    if len(body) > limit:
        _refuse(f"it is larger than {limit} bytes", what=what)
    if _nests_too_deep(body):
        _refuse(f"it is nested deeper than {MAX_DEPTH}", what=what)
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        _refuse(str(error), error, what)
    if not isinstance(value, dict):
        _refuse("it is not a JSON object", what=what)
    return value


def _check_json(body: bytes, limit: int, what: str) -> None:
    decode_object(body, limit, what)


def _nests_too_deep(body: bytes) -> bool:
    """Whether arrays and objects nest deeper than MAX_DEPTH."""
    # Brackets within strings are rarely in the way; taking the strings out is only then worth its time.
    return _brackets_too_deep(body) and _brackets_too_deep(_STRING.sub(b"", body))


def _brackets_too_deep(body: bytes) -> bool:
    """Opening brackets count 2 and closing ones 0, so that each sum less its index is the depth there."""
    weights = body.translate(_WEIGHTS, delete=_NOT_BRACKETS)
    depth = 0
    # Piece by piece: the worst text is told by its first.
    for start in range(0, len(weights), _DEPTH_PIECE):
        piece = weights[start : start + _DEPTH_PIECE]
        if depth + max(map(sub, accumulate(piece), count(1))) > MAX_DEPTH:
            return True
        depth += sum(piece) - len(piece)
    return False


_DEPTH_PIECE = 4096
_WEIGHTS = bytes(2 if byte in b"[{" else 0 for byte in range(256))
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it has the same key twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _kind(document: _Document, carried: str) -> str:
    if document.schema_version != 2:
        _refuse(f"schema version {document.schema_version} is not supported")
    kind = document.media_type or carried
    if carried and kind != carried:
        _refuse(f"it says it is {kind!r} but was carried as {carried!r}")
    if document.manifests is not None and (document.layers is not None or document.config is not None):
        _refuse("it is both an index and a manifest")
    if not kind:
        # OCI permits the document to be silent; nothing carried a type (an OCI layout written by hand).
        kind = media_types.OCI_INDEX if document.manifests is not None else media_types.OCI_MANIFEST
    if kind not in media_types.INDEXES | media_types.MANIFESTS:
        _refuse(f"media type {kind!r} is not supported")
    if (kind in media_types.INDEXES) != (document.manifests is not None):
        _refuse(f"its content is not that of {kind!r}")
    if document.media_type == "" and kind not in (media_types.OCI_MANIFEST, media_types.OCI_INDEX):
        _refuse(f"a {kind!r} must say its mediaType")
    return kind


def _descriptor(wire: _Descriptor) -> Descriptor:
    if not 0 <= wire.size <= MAX_SIZE:
        _refuse(f"size {wire.size} of {wire.digest} is not possible")
    if not media_types.is_media_type(wire.media_type):
        _refuse(f"{wire.media_type[:100]!r} is not a media type")
    platform = wire.platform
    return Descriptor(
        media_type=wire.media_type,
        digest=Digest.parse(wire.digest),
        size=wire.size,
        platform=Platform(os=platform.os, architecture=platform.architecture, variant=platform.variant)
        if platform
        else None,
        artifact_type=wire.artifact_type,
        annotations=MappingProxyType(wire.annotations or {}),
        urls=tuple(wire.urls or ()),
    )


def _history(wire: _History) -> HistoryEntry:
    return HistoryEntry(
        created=wire.created or "",
        created_by=wire.created_by or "",
        author=wire.author or "",
        comment=wire.comment or "",
        empty_layer=bool(wire.empty_layer),
    )


def _refuse(reason: str, cause: Exception | None = None, what: str = "manifest") -> NoReturn:
    raise InvalidArgument(f"cannot use {what}: {reason}") from cause
