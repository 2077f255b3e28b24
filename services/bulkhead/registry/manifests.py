"""Manifests by tag and digest, and who refers to them."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from bulkhead.content import media_types
from bulkhead.content.blocking import Blocking
from bulkhead.content.manifests import MAX_MANIFEST, Descriptor, Index, parse_manifest
from bulkhead.model.digest import Digest
from bulkhead.registry import bodies, names
from bulkhead.registry.blobs import matches
from bulkhead.registry.errors import Code, Refusal
from bulkhead.registry.ports import NewManifest, Storage, StoredManifest
from bulkhead.registry.validation import validated

# Tags that one PUT by digest may set.
MAX_TAGS = 100
# Manifests from this size are parsed beside the loop; real ones are a hundredth of it.
LARGE = 256 << 10
FOREIGN = "non-distributable layers are deprecated: their bytes are not kept here, and may not be found when pulled"


class Manifests:
    """The endpoints below /v2/<name>/manifests/ and /v2/<name>/referrers/."""

    def __init__(self, storage: Storage, blocking: Blocking, *, deletable: bool, largest: int = MAX_MANIFEST) -> None:
        self._storage = storage
        self._blocking = blocking
        self._deletable = deletable
        self._largest = largest

    async def get(self, request: web.BaseRequest, name: str, reference: str) -> web.StreamResponse:
        manifest = await self._find(name, reference)
        if matches(request, manifest.digest):
            return web.Response(status=304, headers=_headers(manifest))
        return web.Response(body=manifest.body, headers=_headers(manifest))

    async def head(self, request: web.BaseRequest, name: str, reference: str) -> web.StreamResponse:
        manifest = await self._find(name, reference)
        if matches(request, manifest.digest):
            return web.Response(status=304, headers=_headers(manifest))
        return web.Response(headers={**_headers(manifest), "Content-Length": str(len(manifest.body))})

    async def put(self, request: web.BaseRequest, name: str, reference: str) -> web.StreamResponse:
        repository, target = names.repository(name), names.reference(reference)
        tags = [names.tag(text) for text in request.query.getall("tag", [])]
        if len(tags) > MAX_TAGS:
            raise Refusal(Code.TAG_INVALID, f"more than {MAX_TAGS} tags")
        body = await bodies.whole(request, self._largest)
        digest = Digest.of(body, target.algorithm if isinstance(target, Digest) else "sha256")
        if isinstance(target, Digest) and digest != target:
            raise Refusal(Code.DIGEST_INVALID, detail={"expected": str(target), "actual": str(digest)})
        manifest = await self._validated(body, request.headers.get("Content-Type", ""), digest)
        if isinstance(target, str):
            tags = [target]
        await self._storage.put_manifest(repository, manifest, tags)
        response = web.Response(status=201)
        if manifest.foreign:
            # Clients print this to their users (distribution specification, "Warnings").
            response.headers["Warning"] = f'299 - "{FOREIGN}"'
        response.headers["Location"] = f"/v2/{repository}/manifests/{reference}"
        response.headers["Docker-Content-Digest"] = str(digest)
        if manifest.subject is not None:
            response.headers["OCI-Subject"] = str(manifest.subject)
        if isinstance(target, Digest):
            for tag in tags:
                response.headers.add("OCI-Tag", tag)
        return response

    async def delete(self, request: web.BaseRequest, name: str, reference: str) -> web.StreamResponse:
        repository, target = names.repository(name), names.existing(reference)
        if not self._deletable:
            raise Refusal(Code.UNSUPPORTED)
        if isinstance(target, Digest):
            await self._storage.delete_manifest(repository, target)
        else:
            await self._storage.delete_tag(repository, target)
        return web.Response(status=202)

    async def referrers(self, request: web.BaseRequest, name: str, digest: str) -> web.StreamResponse:
        repository, subject = names.repository(name), names.digest(digest)
        found = {entry.digest: entry for entry in await self._storage.referrers(repository, subject)}
        for entry in await self._tagged_referrers(repository, subject):
            found.setdefault(entry.digest, entry)
        kind = request.query.get("artifactType", "")
        chosen = [entry for entry in found.values() if not kind or entry.artifact_type == kind]
        index = {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_INDEX,
            "manifests": [_wire(entry) for entry in chosen],
        }
        response = web.Response(body=msgspec.json.encode(index), content_type=media_types.OCI_INDEX)
        if kind:
            response.headers["OCI-Filters-Applied"] = "artifactType"
        return response

    async def _validated(self, body: bytes, content_type: str, digest: Digest) -> NewManifest:
        if len(body) < LARGE:
            return validated(body, content_type, digest)
        # Others are served meanwhile: megabytes of hostile JSON take most of a second to refuse.
        return await self._blocking.run(validated, body, content_type, digest)

    async def _tagged_referrers(self, repository: str, subject: Digest) -> tuple[Descriptor, ...]:
        """Those that a client recorded in the way from before this endpoint: an index tagged `sha256-<hex>`."""
        tag = f"{subject.algorithm}-{subject.encoded}"[:128]
        stored = await self._storage.manifest(repository, tag)
        if stored is None or stored.media_type not in media_types.INDEXES:
            return ()
        index = parse_manifest(stored.body, stored.media_type, stored.digest)
        return index.manifests if isinstance(index, Index) else ()

    async def _find(self, name: str, reference: str) -> StoredManifest:
        manifest = await self._storage.manifest(names.repository(name), names.existing(reference))
        if manifest is None:
            raise Refusal(Code.MANIFEST_UNKNOWN, detail={"name": name, "reference": reference})
        return manifest


def _headers(manifest: StoredManifest) -> dict[str, str]:
    return {
        "Content-Type": manifest.media_type,
        "Docker-Content-Digest": str(manifest.digest),
        "ETag": f'"{manifest.digest}"',
    }


def _wire(entry: Descriptor) -> dict[str, Any]:
    wire: dict[str, Any] = {"mediaType": entry.media_type, "digest": str(entry.digest), "size": entry.size}
    if entry.artifact_type:
        wire["artifactType"] = entry.artifact_type
    if entry.annotations:
        wire["annotations"] = dict(entry.annotations)
    return wire
