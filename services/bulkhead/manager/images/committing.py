"""The image's side of `docker commit`: a layer of what a container changed, on top of its image."""

from __future__ import annotations

from dataclasses import dataclass

from bulkhead.content.inflate import Limits, stored
from bulkhead.content.trees import Tree, reading
from bulkhead.manager.images.catalogue import no_such_image
from bulkhead.manager.images.ledger import Ledger
from bulkhead.manager.images.making import Maker, Recipe
from bulkhead.model.digest import Digest
from bulkhead.model.image import ImageConfig
from bulkhead.model.reference import Reference

# What a container has written is on this disk already: it cannot be a bomb.
_LIMITS = Limits(size=1 << 62, ratio=1 << 40)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What to make of a container's changes."""

    image_id: str
    tree: Tree
    config: ImageConfig
    author: str = ""
    comment: str = ""
    created_by: str = ""
    name: Reference | None = None


class Committer:
    """Makes images of containers."""

    def __init__(self, maker: Maker, ledger: Ledger) -> None:
        self._maker = maker
        self._ledger = ledger

    async def commit(self, wanted: Commit) -> str:
        """The new image's id. Raises NotFound, ResourceExhausted, Internal."""
        parent = self._ledger.books.get(Digest.parse(wanted.image_id))
        if parent is None:
            raise no_such_image(wanted.image_id)
        async with self._maker.layering() as layering:
            async with reading("layer", wanted.tree) as source:
                layer = await layering.make(source.read, stored, _LIMITS, self._maker.store.blocking)
            recipe = Recipe(
                config=wanted.config,
                layer=layer,
                parent=parent,
                author=wanted.author,
                comment=wanted.comment,
                created_by=wanted.created_by,
                name=wanted.name,
            )
            return str((await self._maker.make(recipe)).id)
