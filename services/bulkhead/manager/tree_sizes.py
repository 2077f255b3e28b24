"""How many bytes trees of files take: of containers' writable layers, of volumes."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from bulkhead.content.aside import Apart

# Who counts a tree waits for as much of it as is in no cache, however long that takes.
_AT_ONCE = 4
# One descriptor per level; what a container hides deeper is not measured.
_DEEPEST = 500


class TreeSizes:
    """Counts trees in threads of its own: who waits here for a disk is in nobody's way who wants something else."""

    def __init__(self) -> None:
        self._threads = Apart(_AT_ONCE, "trees")

    async def below(self, roots: Sequence[Path]) -> list[int]:
        """Of each, by one thread: the way to one and back takes longer than most trees."""
        return await self._threads.run(lambda: [bytes_below(each) for each in roots])


def bytes_below(root: Path) -> int:
    """Sizes of everything below `root` that is no directory, hard links once; 0 when it is not there.

    Walked on descriptors, without recursion: the tree is a container's, and it may be changing it. What vanishes
    meanwhile, or cannot be read, is not counted.
    """
    total = 0
    linked: set[tuple[int, int]] = set()
    walk: list[tuple[int, Iterator[str]]] = []
    try:
        _enter(walk, root)
        while walk:
            directory, names = walk[-1]
            name = next(names, None)
            if name is None:
                os.close(walk.pop()[0])
                continue
            with contextlib.suppress(OSError):
                found = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    if len(walk) < _DEEPEST:
                        _enter(walk, name, directory)
                elif found.st_nlink == 1 or (found.st_dev, found.st_ino) not in linked:
                    if found.st_nlink > 1:
                        linked.add((found.st_dev, found.st_ino))
                    total += found.st_size
    except FileNotFoundError:
        return 0
    finally:
        for directory, _ in walk:
            os.close(directory)
    return total


def _enter(walk: list[tuple[int, Iterator[str]]], name: str | Path, parent: int | None = None) -> None:
    directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        names = os.listdir(directory)  # noqa: PTH208 -- a descriptor, not a path
    except BaseException:
        os.close(directory)
        raise
    walk.append((directory, iter(names)))
