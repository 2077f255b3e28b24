"""The files of an archive of images on their way in: on the store's disk, not yet in the store."""

from __future__ import annotations

import asyncio
import os
import posixpath
import secrets
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from pathlib import Path

from bulkhead.content.durable import disk_errors, start_writeback, write_all
from bulkhead.content.inflate import Limits, bounded
from bulkhead.content.manifests import MAX_CONFIG
from bulkhead.content.store import WRITEBACK, BlobStore
from bulkhead.content.tarstream import Entry, TarStream, refused_entry, safe_path
from bulkhead.errors import DataLoss, InvalidArgument
from bulkhead.model.digest import Digest, new_hasher

# The documents that say what the other files are; they are kept in memory.
METADATA = frozenset({"manifest.json", "index.json", "oci-layout", "repositories"})
MAX_LINKS = 8


class Pulled:
    """An async stream read by a thread, a piece at a time."""

    def __init__(self, stream: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self._stream = stream
        self._loop = loop
        self._held = memoryview(b"")
        self._pending: Future[bytes] | None = None
        self._aborted = False

    def read(self, count: int) -> bytes:
        """Some bytes, at most `count`; b"" at the end. In the thread."""
        if not self._held:
            self._held = memoryview(self._pull())
        data = bytes(self._held[:count])
        self._held = self._held[count:]
        return data

    def abort(self) -> None:
        """Let no `read` wait any longer. In the loop."""
        self._aborted = True
        if self._pending is not None:
            self._pending.cancel()

    def _pull(self) -> bytes:
        self._pending = asyncio.run_coroutine_threadsafe(self._next(), self._loop)
        if self._aborted:
            self._pending.cancel()
        try:
            return self._pending.result()
        except CancelledError:
            raise InvalidArgument("cannot load archive: given up") from None

    async def _next(self) -> bytes:
        async for piece in self._stream:
            if piece:
                return piece
        return b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A file of the archive, on disk but not in the store."""

    path: Path
    digest: Digest
    size: int
    head: bytes


@dataclass(slots=True)
class Staging:
    """What was read so far."""

    store: BlobStore
    files: dict[str, Staged] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, bytes] = field(default_factory=dict)
    paths: list[Path] = field(default_factory=list)

    def find(self, name: str) -> Staged:
        """A file by its name in the archive, through its links; raises InvalidArgument."""
        current = posixpath.normpath(name)
        for _ in range(MAX_LINKS):
            if current in self.files:
                return self.files[current]
            if current not in self.links:
                break
            current = self.links[current]
        raise InvalidArgument(f"cannot load archive: {name[:200]!r} is not in it")

    def blob(self, digest: Digest) -> Staged:
        """A blob of an OCI layout; raises InvalidArgument."""
        return self.find(blob_name(digest))

    def read(self, staged: Staged, limit: int) -> bytes:
        """A small file's bytes; raises InvalidArgument when it is not small."""
        if staged.size > limit:
            raise InvalidArgument(f"cannot load archive: {staged.digest} is larger than {limit} bytes")
        return staged.path.read_bytes()

    def write(self, pieces: Iterable[bytes | memoryview], algorithm: str) -> Staged:
        """A new file of these pieces, synced and hashed. Raises ResourceExhausted."""
        path = self.store.root / "ingest" / secrets.token_hex(16)
        self.paths.append(path)
        hasher, size, started, head = new_hasher(algorithm), 0, 0, b""
        with disk_errors("load archive"):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                for piece in pieces:
                    head = head or bytes(piece[:8])
                    hasher.update(piece)
                    write_all(fd, piece)
                    size += len(piece)
                    if size - started >= WRITEBACK:
                        start_writeback(fd, started, size - started)
                        started = size
                os.fdatasync(fd)
            finally:
                os.close(fd)
        return Staged(path=path, digest=Digest.from_hasher(algorithm, hasher), size=size, head=head)

    def discard(self) -> None:
        """Remove what no image needed."""
        for path in self.paths:
            path.unlink(missing_ok=True)


def stage(pulled: Pulled, staging: Staging, limits: Limits) -> None:
    pieces = bounded(pulled.read, limits, lambda _: None)
    tar = TarStream(lambda: next(pieces, b""))
    for count, entry in enumerate(tar.entries()):
        if count >= limits.entries:
            raise InvalidArgument(f"cannot load archive: more than {limits.entries} members")
        _stage_member(staging, tar, entry)
    # Tar pads what it writes; who sends that must get rid of it.
    tar.drain()


def _stage_member(staging: Staging, tar: TarStream, entry: Entry) -> None:
    path = safe_path(entry.name, "archive").decode("utf-8", "surrogateescape")
    if entry.kind == b"5":
        return
    if entry.kind == b"0" and path in METADATA:
        staging.metadata[path] = tar.read(MAX_CONFIG)
    elif entry.kind == b"0":
        staging.files[path] = _stage_file(staging, tar, entry, path)
    elif entry.kind in (b"1", b"2"):
        staging.links[path] = _link_target(entry, path)
    else:
        raise refused_entry("archive", entry.name, "it is a device")


def _link_target(entry: Entry, path: str) -> str:
    """Archives of Docker before 25 hold a layer once, and links to it."""
    target = entry.linkname.decode("utf-8", "surrogateescape")
    if entry.kind == b"2":
        target = posixpath.join(posixpath.dirname(path), target)
    target = posixpath.normpath(target)
    if target.startswith(("/", "..")):
        raise refused_entry("archive", entry.name, "it links out of the archive")
    return target


def _stage_file(staging: Staging, tar: TarStream, entry: Entry, path: str) -> Staged:
    expected = _blob_digest(path)
    staged = staging.write(tar.pieces(), expected.algorithm if expected is not None else "sha256")
    if expected is not None and staged.digest != expected:
        raise DataLoss(f"cannot load archive: the bytes of blob {expected} have digest {staged.digest}")
    return staged


def _blob_digest(path: str) -> Digest | None:
    parts = path.split("/")
    return Digest.parse(f"{parts[1]}:{parts[2]}") if len(parts) == 3 and parts[0] == "blobs" else None


def blob_name(digest: Digest) -> str:
    """Where an OCI layout has a blob."""
    return f"blobs/{digest.algorithm}/{digest.encoded}"
