"""What is recorded of an image."""

from __future__ import annotations

from dataclasses import dataclass

from bulkhead.model.digest import Digest
from bulkhead.model.image import ImageConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of an image: its blob as it came, and the directory it was unpacked to (by chain id)."""

    diff_id: Digest
    chain_id: Digest
    blob: Digest
    media_type: str
    blob_size: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """An image that is here, whole. `id` is its config's digest; times are Unix nanoseconds.

    `removed` images are no longer known to users; a container that was made from one keeps its layers.
    """

    id: Digest
    config: ImageConfig
    config_json: bytes
    manifest: Digest
    manifest_media_type: str
    manifest_size: int
    layers: tuple[Layer, ...]
    created_at: int
    removed: bool = False

    @property
    def size(self) -> int:
        """Bytes of all layers, unpacked."""
        return sum(layer.size for layer in self.layers)

    @property
    def content_size(self) -> int:
        """Bytes of all its blobs, as they came."""
        return len(self.config_json) + self.manifest_size + sum(layer.blob_size for layer in self.layers)

    @property
    def blobs(self) -> frozenset[Digest]:
        """Every blob that this image needs in the content store."""
        return frozenset({self.id, self.manifest, *(layer.blob for layer in self.layers)})


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedImage:
    """An image found by what a user wrote; `reference` is its familiar name, or its id."""

    id: str
    config: ImageConfig
    reference: str
    chain_ids: tuple[str, ...]
