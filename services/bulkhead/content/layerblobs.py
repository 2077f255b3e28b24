"""Layers that are made here, not pulled: a tar becomes a gzip blob of the store, and is unpacked at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from bulkhead.content import media_types
from bulkhead.content.durable import write_all
from bulkhead.content.inflate import Codec, Limits, Reader, bounded
from bulkhead.content.manifests import Descriptor
from bulkhead.content.staging import Staging
from bulkhead.content.store import BlobStore
from bulkhead.model.digest import Digest

# A layer without entries: Docker keeps none for it (two zero blocks).
EMPTY_LAYER = Digest.of(bytes(1024))
_GZIP = 31  # zlib's window bits for a gzip header
_LEVEL = 1


class Unread(Exception):
    """Nobody takes what is unpacked any more: why, they say themselves."""


def store_layer(read: Reader, codec: Codec, store: BlobStore, limits: Limits, plain: BinaryIO) -> Descriptor:
    """Read a tar to its end, packed as `codec` says; what is kept is gzip, the same for the same tar. Blocks.

    What it is when it is unpacked goes to `plain` as well, a pipe, which is closed in the end. Raises InvalidArgument
    for a bomb, DataLoss for damage, ResourceExhausted for a full disk, Unread when nobody reads the pipe any more; then
    nothing stays. Whether it is a tar at all is found out by who reads there.
    """
    staging = Staging(store)
    try:
        with plain:
            pieces = _poured(bounded(read, limits, lambda _: None, codec), plain)
            staged = staging.write(_compressed(pieces), "sha256")
            store.adopt(staged.path, staged.digest)
    finally:
        staging.discard()
    return Descriptor(media_type=media_types.OCI_LAYER_GZIP, digest=staged.digest, size=staged.size)


def _poured(pieces: Iterator[bytes], plain: BinaryIO) -> Iterator[bytes]:
    for piece in pieces:
        try:
            write_all(plain.fileno(), piece)
        except BrokenPipeError as error:
            raise Unread from error
        yield piece
    # Who reads there goes on while we bring the blob to the disk.
    plain.close()


def _compressed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    from isal import isal_zlib

    compressor = isal_zlib.compressobj(level=_LEVEL, wbits=_GZIP)
    for piece in pieces:
        if squeezed := compressor.compress(piece):
            yield squeezed
    yield compressor.flush()
