"""The files of containers: archives into and out of them, what has changed, images made of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from bulkhead.api.ports.images import Progress
from bulkhead.model.container import ContainerSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class PathStat:
    """What is at a path of a container; `mode` as in stat(2)."""

    name: str
    size: int = 0
    mode: int = 0
    mtime: int = 0
    link_target: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpack:
    """An archive's destination. `keep_kinds`: directories and other things do not replace each other. `as_user`:
    everything becomes the container's user's."""

    ref: str
    path: str
    keep_kinds: bool = False
    as_user: bool = False


class Archives(Protocol):
    async def look(self, ref: str, path: str) -> PathStat: ...

    def read(self, ref: str, path: str) -> AsyncGenerator[PathStat | bytes]:
        """First what is there, then its tar. Raises NotFound with Docker's text."""

    async def write(self, where: Unpack, data: AsyncIterator[bytes]) -> None:
        """Unpack a tar, compressed or not. Raises NotFound, InvalidArgument, Forbidden for what is read-only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """An image to be made of a container; `name` is familiar, `config` what the body says."""

    ref: str
    name: str = ""
    author: str = ""
    comment: str = ""
    pause: bool = True
    changes: tuple[str, ...] = ()
    config: ContainerSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """An image to be made of a tar; `source` is a URL, or `-` for what the client sends."""

    source: str
    name: str = ""
    message: str = ""
    changes: tuple[str, ...] = ()
    platform: str = ""


class Filesystems(Protocol):
    def export(self, ref: str) -> AsyncGenerator[bytes]:
        """The tar of a container's files."""

    def changes(self, ref: str) -> AsyncGenerator[Sequence[tuple[str, bytes]]]:
        """Some at a time: C, A or D, and a path without a slash at its beginning."""

    async def commit(self, wanted: Commit) -> str:
        """The id of the new image."""

    def import_image(self, wanted: Import, data: AsyncIterator[bytes]) -> AsyncGenerator[Progress]: ...
