"""What a manifest must be before the registry keeps it (registry.md section 3)."""

from __future__ import annotations

from bulkhead.content import media_types
from bulkhead.content.manifests import Descriptor, Index, Manifest, parse_manifest
from bulkhead.errors import InvalidArgument
from bulkhead.model.digest import Digest
from bulkhead.registry.errors import Code, Refusal
from bulkhead.registry.ports import NewManifest, StoredManifest


def validated(body: bytes, content_type: str, digest: Digest) -> NewManifest:
    """`body` as a manifest whose digest is known; raises Refusal(MANIFEST_INVALID)."""
    carried = media_types.told(content_type)
    if (carried or "").startswith(media_types.SCHEMA1_PREFIX):
        raise Refusal(Code.MANIFEST_INVALID, "schema 1 manifests are not supported")
    try:
        manifest = parse_manifest(body, carried, digest)
        if isinstance(manifest, Manifest):
            _check_artifact(manifest)
    except InvalidArgument as error:
        raise Refusal(Code.MANIFEST_INVALID, str(error)) from error
    return NewManifest(
        stored=StoredManifest(digest=digest, media_type=manifest.media_type, body=body),
        blobs=_blobs(manifest),
        manifests=tuple(entry.digest for entry in manifest.manifests) if isinstance(manifest, Index) else (),
        subject=manifest.subject.digest if manifest.subject is not None else None,
        referrer=_referrer(manifest),
        foreign=isinstance(manifest, Manifest) and any(map(_is_foreign, manifest.layers)),
    )


def _check_artifact(manifest: Manifest) -> None:
    if manifest.config.media_type == media_types.OCI_EMPTY and not manifest.artifact_type:
        raise InvalidArgument("cannot use manifest: an empty config needs an artifactType")


def _blobs(manifest: Manifest | Index) -> tuple[Digest, ...]:
    if isinstance(manifest, Index):
        return ()
    held = [layer for layer in manifest.layers if not _is_foreign(layer)]
    return tuple(dict.fromkeys(entry.digest for entry in (manifest.config, *held)))


def _is_foreign(layer: Descriptor) -> bool:
    return layer.media_type in media_types.NONDISTRIBUTABLE and bool(layer.urls)


def _referrer(manifest: Manifest | Index) -> Descriptor:
    kind = manifest.artifact_type
    if not kind and isinstance(manifest, Manifest):
        kind = manifest.config.media_type
    return Descriptor(
        media_type=manifest.media_type,
        digest=manifest.digest,
        size=manifest.size,
        artifact_type=kind,
        annotations=manifest.annotations,
    )
