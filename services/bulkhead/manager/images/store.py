"""Use-cases on images that are here."""

from __future__ import annotations

from contextlib import AbstractContextManager

from bulkhead.manager.images.records import ResolvedImage


class ImageStore:
    async def resolve(self, ref: str, platform: str = "") -> ResolvedImage:
        """The image a user means. Raises NotFound (`No such image: x:latest`), InvalidArgument."""
        raise NotImplementedError

    def holding(self, image_id: str) -> AbstractContextManager[None]:
        """Nobody removes the image while entered."""
        raise NotImplementedError
