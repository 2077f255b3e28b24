"""Layers that are made here, not pulled: a tar in any form becomes a gzip blob of the store and its diff id."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bulkhead.content import media_types
from bulkhead.content.inflate import Limits, Reader, bounded
from bulkhead.content.manifests import Descriptor
from bulkhead.content.staging import Staging
from bulkhead.content.store import BlobStore
from bulkhead.model.digest import Digest, new_hasher

# A layer without entries: Docker keeps none for it (two zero blocks).
EMPTY_LAYER = Digest.of(bytes(1024))
_GZIP = 31  # zlib's window bits for a gzip header
_LEVEL = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeLayer:
    """A layer whose blob is in the store."""

    blob: Descriptor
    diff_id: Digest

    @property
    def is_empty(self) -> bool:
        return self.diff_id == EMPTY_LAYER


def store_layer(read: Reader, store: BlobStore, limits: Limits) -> MadeLayer:
    """Read a tar to its end, plain or compressed; what is kept is gzip, the same for the same tar. Blocks.

    Raises InvalidArgument for a bomb, DataLoss for damage, ResourceExhausted for a full disk; then nothing stays.
    Whether it is a tar at all is found out when it is unpacked.
    """
    staging = Staging(store)
    hasher = new_hasher("sha256")
    try:
        staged = staging.write(_compressed(bounded(read, limits, lambda _: None), hasher.update), "sha256")
        store.adopt(staged.path, staged.digest)
    finally:
        staging.discard()
    blob = Descriptor(media_type=media_types.OCI_LAYER_GZIP, digest=staged.digest, size=staged.size)
    return MadeLayer(blob=blob, diff_id=Digest.from_hasher("sha256", hasher))


def _compressed(pieces: Iterator[bytes], hash_plain: Callable[[bytes], None]) -> Iterator[bytes]:
    from isal import isal_zlib

    compressor = isal_zlib.compressobj(level=_LEVEL, wbits=_GZIP)
    for piece in pieces:
        hash_plain(piece)
        if squeezed := compressor.compress(piece):
            yield squeezed
    yield compressor.flush()
