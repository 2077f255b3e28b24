"""The images that are here and what they are called, in memory.

Loaded from the records at boot and changed only by a `Change` that is already on disk, so that every
answer is true and none waits for a disk. One image has any number of tags (`name:tag`) and digest
references (`name@sha256:...`, the manifest digests under which registries know it).
"""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from bulkhead.errors import NotFound
from bulkhead.manager.images.records import ImageRecord, Layer
from bulkhead.model.digest import Digest
from bulkhead.model.ids import with_prefix
from bulkhead.model.reference import Reference, parse_reference

_ID_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")
_ID = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """Which image a name means, and since when (Unix nanoseconds)."""

    image: Digest
    tagged_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one transaction does to the books. Keys of `tags` have a tag only, of `digests` a digest only."""

    images: tuple[ImageRecord, ...] = ()
    tags: Mapping[Reference, Tag] = field(default_factory=lambda: MappingProxyType({}))
    digests: Mapping[Reference, Digest] = field(default_factory=lambda: MappingProxyType({}))
    dropped_references: tuple[Reference, ...] = ()
    dropped_images: tuple[Digest, ...] = ()


class Catalogue:
    """The books. Every method is synchronous and touches nothing but memory."""

    def __init__(self) -> None:
        self._images: dict[Digest, ImageRecord] = {}
        self._removed: dict[Digest, ImageRecord] = {}
        self._in_order: list[str] = []  # what an id may be told by the beginning of
        self._tags: dict[Reference, Tag] = {}
        self._digests: dict[Reference, Digest] = {}
        self._references: dict[Digest, list[Reference]] = {}  # in the order in which they are told
        self._blobs: Counter[Digest] = Counter()
        self._layers: dict[Digest, Layer] = {}
        self._layer_users: Counter[Digest] = Counter()

    def apply(self, change: Change) -> None:
        """Do what is already on disk."""
        for image in change.images:
            self._forget(image.id)
            self._remember(image)
        for reference in change.dropped_references:
            self._unbind(reference)
        for reference, tag in change.tags.items():
            self._unbind(reference)
            self._tags[reference] = tag
            self._bind(reference, tag.image)
        for reference, image_id in change.digests.items():
            self._unbind(reference)
            self._digests[reference] = image_id
            self._bind(reference, image_id)
        for image_id in change.dropped_images:
            for reference in self.references(image_id):
                self._unbind(reference)
            self._forget(image_id)

    def find(self, text: str) -> ImageRecord:
        """The image that `text` means: a name first, then an id or the beginning of one.

        Raises InvalidArgument for what can be neither, NotFound with Docker's text.
        """
        whole = _ID.fullmatch(text)
        if whole:
            return self._known(Digest("sha256", whole[1]), text)
        named = parse_reference(text)
        found = self.named(named)
        if found is not None:
            return found
        begun = _ID_PREFIX.fullmatch(text)
        matching = list(self._beginning(begun[1])) if begun else []
        if len(matching) > 1:
            raise NotFound(f"ambiguous reference: {text}")
        if not matching:
            raise no_such_image(named.with_default_tag().familiar())
        return matching[0]

    def named(self, reference: Reference) -> ImageRecord | None:
        """The image called `reference`; its digest, when there is one, decides."""
        wanted = bound_name(reference)
        if wanted.digest is not None:
            image_id = self._digests.get(wanted)
        else:
            tag = self._tags.get(wanted)
            image_id = tag.image if tag is not None else None
        return self._images.get(image_id) if image_id is not None else None

    def get(self, image_id: Digest) -> ImageRecord | None:
        """An image by its id, removed ones included."""
        return self._images.get(image_id)

    @property
    def count(self) -> int:
        """How many images users can see."""
        return len(self._images) - len(self._removed)

    def images(self) -> Iterator[ImageRecord]:
        """Every image that users can see."""
        return (image for image in list(self._images.values()) if not image.removed)

    def all_images(self) -> Iterable[ImageRecord]:
        """Every image, those that only containers still need included."""
        return list(self._images.values())

    def removed_images(self) -> Sequence[ImageRecord]:
        """Those that only containers still need, or nobody any more."""
        return list(self._removed.values())

    def references(self, image_id: Digest) -> list[Reference]:
        """All names of an image: tags first, each kind sorted."""
        return list(self._references.get(image_id, ()))

    def repository_tags(self, name: str) -> dict[Reference, Digest]:
        """The tags of one canonical repository."""
        return {reference: tag.image for reference, tag in self._tags.items() if reference.name == name}

    def tagged_at(self, image_id: Digest) -> int:
        """When a name was last given to an image (Unix nanoseconds), 0 = never."""
        return max((self._tags[name].tagged_at for name in self.references(image_id) if name in self._tags), default=0)

    def needs_blob(self, blob: Digest) -> bool:
        """Whether an image consists of this blob."""
        return self._blobs[blob] > 0

    def layer(self, chain: Digest) -> Layer | None:
        """An unpacked layer that an image consists of."""
        return self._layers.get(chain)

    def chains(self) -> frozenset[Digest]:
        """Every unpacked layer that an image consists of."""
        return frozenset(self._layers)

    def shared_size(self, image: ImageRecord) -> int:
        """Bytes of an image's layers that another image has, too."""
        return sum(layer.size for layer in image.layers if self._layer_users[layer.chain_id] > 1)

    def _remember(self, image: ImageRecord) -> None:
        self._images[image.id] = image
        if image.removed:
            self._removed[image.id] = image
        insort(self._in_order, image.id.encoded)
        self._blobs.update(image.blobs)
        for layer in image.layers:
            self._layers[layer.chain_id] = layer
            self._layer_users[layer.chain_id] += 1

    def _forget(self, image_id: Digest) -> None:
        image = self._images.pop(image_id, None)
        if image is None:
            return
        self._removed.pop(image_id, None)
        del self._in_order[bisect_left(self._in_order, image_id.encoded)]
        for blob in image.blobs:
            self._blobs[blob] -= 1
            if not self._blobs[blob]:
                del self._blobs[blob]
        for layer in image.layers:
            self._layer_users[layer.chain_id] -= 1
            if not self._layer_users[layer.chain_id]:
                del self._layer_users[layer.chain_id]
                del self._layers[layer.chain_id]

    def _known(self, image_id: Digest, text: str) -> ImageRecord:
        image = self._images.get(image_id)
        if image is None or image.removed:
            raise no_such_image(text)
        return image

    def _beginning(self, prefix: str) -> Iterator[ImageRecord]:
        found = (self._images[Digest("sha256", encoded)] for encoded in with_prefix(prefix, self._in_order))
        return (image for image in found if not image.removed)

    def _bind(self, reference: Reference, image_id: Digest) -> None:
        insort(self._references.setdefault(image_id, []), reference, key=_told_as)

    def _unbind(self, reference: Reference) -> None:
        tag = self._tags.pop(reference, None)
        image_id = tag.image if tag is not None else self._digests.pop(reference, None)
        if image_id is not None:
            names = self._references[image_id]
            del names[bisect_left(names, _told_as(reference), key=_told_as)]
            if not names:
                del self._references[image_id]


def _told_as(reference: Reference) -> tuple[bool, str]:
    return reference.digest is not None, str(reference)


def bound_name(reference: Reference) -> Reference:
    """The key under which the books hold a reference: name@digest, else name:tag."""
    if reference.digest is not None:
        return replace(reference, tag=None)
    return reference.with_default_tag()


def no_such_image(name: str) -> NotFound:
    """Docker's text, on whose 404 clients pull."""
    return NotFound(f"No such image: {name}")


def is_id_of(image_id: Digest, text: str) -> bool:
    """Whether `text` is the id of an image, or its beginning."""
    return str(image_id).startswith(text) or image_id.encoded.startswith(text)
