"""What a registry says of an image that need not be here: `GET /distribution/{name}/json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bulkhead.content.arriving import Arriving
from bulkhead.content.auth import Credentials
from bulkhead.content.client import RemoteManifest
from bulkhead.content.manifests import MAX_CONFIG, Index, Platform, parse_config
from bulkhead.content.store import BlobStore
from bulkhead.errors import BulkheadError, NotFound
from bulkhead.manager.images.collector import Collector
from bulkhead.manager.images.leases import Kind, Leases
from bulkhead.manager.images.ports import Registries, Source
from bulkhead.model.reference import Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Distributed:
    """A manifest or index as a registry has it, and the platforms it is for."""

    manifest: RemoteManifest
    platforms: Sequence[Platform]


class Distribution:
    """Asks registries."""

    def __init__(self, registries: Registries, store: BlobStore, leases: Leases, collector: Collector) -> None:
        self._registries = registries
        self._store = store
        self._leases = leases
        self._collector = collector

    async def inspect(self, reference: Reference, credentials: Credentials) -> Distributed:
        """Mirrors are asked first. Raises NotFound, Unauthorized, Unavailable, DataLoss, as the last of them did."""
        failure: BulkheadError = NotFound(f"manifest unknown: {reference.familiar()}")
        async with self._registries.sources(reference, credentials) as sources:
            for source in sources:
                try:
                    manifest = await source.manifest(reference)
                    return Distributed(manifest=manifest, platforms=await self._platforms(manifest, source))
                except BulkheadError as error:
                    failure = error
        raise failure

    async def _platforms(self, manifest: RemoteManifest, source: Source) -> Sequence[Platform]:
        document = manifest.document
        if isinstance(document, Index):
            return [each.platform for each in document.manifests if each.platform is not None]
        config = document.config.digest
        try:
            with self._leases.lease() as lease:
                await lease.add(Kind.BLOB, config)
                await source.blob(document.config, lambda _: None, lambda _: None, Arriving())
                found = parse_config(self._store.read(config, MAX_CONFIG), config)
        finally:
            await self._collector.free_blobs([config])
        return [Platform(os=found.os, architecture=found.architecture, variant=found.variant)]
