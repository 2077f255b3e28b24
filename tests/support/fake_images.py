"""Images that are names with a config."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from bulkhead.errors import NotFound
from bulkhead.model.image import ImageConfig

BUSYBOX = ImageConfig(os="linux", architecture="amd64", cmd=("sh",), env=("PATH=/bin",), labels={"from": "image"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeImage:
    id: str
    config: ImageConfig


@dataclass(slots=True)
class FakeImages:
    """`bulkhead.manager.ports.Images`."""

    known: dict[str, ImageConfig] = field(default_factory=lambda: {"busybox": BUSYBOX})
    held: list[str] = field(default_factory=list)

    async def resolve(self, ref: str, platform: str = "") -> FakeImage:
        name = ref.removesuffix(":latest")
        if name not in self.known:
            raise NotFound(f"No such image: {ref if ':' in ref else ref + ':latest'}")
        return FakeImage(id=image_id(name), config=self.known[name])

    @contextmanager
    def holding(self, image_id: str) -> Iterator[None]:
        self.held.append(image_id)
        try:
            yield
        finally:
            self.held.remove(image_id)


def image_id(name: str) -> str:
    """The id that the fake gives to an image."""
    return f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"
