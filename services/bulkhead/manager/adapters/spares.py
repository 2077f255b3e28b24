"""Directories of removed containers, emptied and kept for those that come next.

    <root>/.spare-<random>    0700, nobody's; the next boot sweeps it, as everything in <root> that no record owns

Containers' directories are spread over the disk (`linux.inode_groups`), so to make one is to wait for bitmaps that
are in nobody's memory, and where a disk is told of freed blocks (`discard`) to remove one is to wait for the disk.
Renaming one costs neither. What a container, or the kernel for it, has seen is not kept: all that is inside is new.

One directory is used so many times only. Files are made in its block group, and ext4 without a journal steps over
each inode there that was deleted in the last minutes.
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Callable
from pathlib import Path

from bulkhead import failpoints
from bulkhead.manager.adapters import small_trees
from bulkhead.manager.adapters.trash import Trash
from bulkhead.model.instance import SPARE
from bulkhead.runtime.trees import is_new_directory

# So many wait for their next container; each has so many.
_MOST, _USES = 8, 16
# Puts into an empty directory, which is open, what is to be there when it is taken. Raises OSError.
Furnish = Callable[[int], None]


class Spares:
    """Those of one place. From any thread; everything blocks."""

    def __init__(self, root: Path, trash: Trash, furnish: Furnish | None = None) -> None:
        self._root = root
        self._trash = trash
        self._furnish = furnish
        # The names of those that wait, the one used last at the end, and how often each was used.
        self._waiting: deque[tuple[str, int]] = deque()
        # Of the containers that have one.
        self._uses: dict[str, int] = {}

    def take(self, place: Path, finish: Callable[[str], None] | None = None) -> bool:
        """Have a spare at `place`, where no directory with anything in it is, if there is one.

        `finish` does before that what the container needs: what bears its name is whole.
        """
        while True:
            try:
                name, uses = self._waiting.pop()
            except IndexError:
                return False
            spare = f"{self._root}/{name}"
            try:
                if finish is not None:
                    finish(spare)
                failpoints.hit("manager.spare.finished")
                os.rename(spare, place)  # noqa: PTH104 -- on the way of each create
            except FileNotFoundError:
                continue  # somebody tidied up
            except OSError:
                self._trash.clear(Path(spare))
                return False
            self._uses[place.name] = uses
            return True

    def clear(self, place: Path) -> None:
        """Take away what a container has left at `place`, if anything. Raises ResourceExhausted, Internal."""
        uses = self._uses.pop(place.name, 0) + 1
        if uses >= _USES or len(self._waiting) >= _MOST or self._trash.is_paused or not self._keep(place, uses):
            self._trash.clear(place)

    def _keep(self, place: Path, uses: int) -> bool:
        """Whether it is a spare now, or on its way out."""
        spare = place.with_name(f"{SPARE}{secrets.token_hex(8)}")
        try:
            with small_trees.opened(place) as directory:
                small_trees.empty(directory)
                place.rename(spare)
                failpoints.hit("manager.spare.named")
                # Nobody comes here by its path any more: what is true now stays true.
                fit = self._is_fit(directory)
        except OSError:
            return False
        if fit:
            self._waiting.append((spare.name, uses))
        else:
            self._trash.clear(spare)
        return True

    def _is_fit(self, directory: int) -> bool:
        """Whether the next container can have it; it is furnished then."""
        try:
            with small_trees.opened(self._root) as root:
                if not is_new_directory(directory, root):
                    return False
            if self._furnish is not None:
                self._furnish(directory)
        except OSError:
            return False
        failpoints.hit("manager.spare.furnished")
        return True
