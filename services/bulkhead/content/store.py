"""Blobs by digest on a local disk: nothing gets a name here before every byte of it was verified.

    <root>/                     0700
      blobs/<alg>/<hex>         whole, verified, never written again
      ingest/<random>           being written by this process; swept at open
      partial/<alg>-<hex>       the verified-so-far beginning of a pull; kept over restarts

One process owns a store at a time (flock on <root>/lock); readers of committed blobs need no lock.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bulkhead import failpoints
from bulkhead.content.arriving import Arriving
from bulkhead.content.blocking import Blocking
from bulkhead.content.durable import (
    disk_errors,
    make_directories,
    start_writeback,
    sync_directory,
    take_lock,
    translated,
    write_all,
)
from bulkhead.content.turns import Turns
from bulkhead.errors import BulkheadError, DataLoss, InvalidArgument, NotFound, ResourceExhausted
from bulkhead.model.digest import HEX_LENGTH, Digest, Hasher, new_hasher

# One trip to a thread costs about 60 us: per MiB it disappears behind the hash (limits.md section 5).
BATCH = 1 << 20
# The disk gets its bytes while more arrive, and not all at the end.
WRITEBACK = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A committed blob."""

    digest: Digest
    size: int
    path: Path


class BlobStore:
    """A directory of blobs. Synchronous methods only look at the disk's metadata."""

    def __init__(self, root: Path, blocking: Blocking | None = None) -> None:
        self._root = root
        self._blocking = blocking or Blocking()
        self._lock_fd = -1
        self._resuming = Turns()

    @property
    def root(self) -> Path:
        return self._root

    @property
    def blocking(self) -> Blocking:
        """The pool that this store's work is done in; whoever works on its blobs shares it."""
        return self._blocking

    def open(self) -> None:
        """Make the tree, take the store's lock, sweep what a dead process was writing.

        Raises Conflict when another process has the store.
        """
        with disk_errors(f"open content store {self._root}"):
            for algorithm in HEX_LENGTH:
                make_directories(self._root / "blobs" / algorithm)
            for name in ("ingest", "partial"):
                make_directories(self._root / name)
            self._lock_fd = self._take_lock()
            for left in (self._root / "ingest").iterdir():
                left.unlink()

    def close(self) -> None:
        """Give the lock back. The pool is ended too."""
        self._blocking.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def path(self, digest: Digest) -> Path:
        """Where a blob is, or would be."""
        return self._root / "blobs" / digest.algorithm / digest.encoded

    def has(self, digest: Digest) -> bool:
        """Whether the blob is here, whole."""
        return self.path(digest).exists()

    def size(self, digest: Digest) -> int:
        """Bytes of a blob; raises NotFound."""
        with _named(digest, "look up"):
            return self.path(digest).stat().st_size

    def open_blob(self, digest: Digest) -> BinaryIO:
        """The blob for reading, unbuffered; raises NotFound. The caller closes it."""
        with _named(digest, "read"):
            return self.path(digest).open("rb", buffering=0)

    def open_growing(self, digest: Digest) -> BinaryIO:
        """The blob, or what `resume` has of it so far: a file that grows into the blob. Raises NotFound."""
        try:
            return self._partial_path(digest).open("rb", buffering=0)
        except FileNotFoundError:
            return self.open_blob(digest)

    def read(self, digest: Digest, limit: int) -> bytes:
        """A small blob's bytes; raises NotFound, and DataLoss when they are no longer what they were."""
        with _named(digest, "read"), self.path(digest).open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise InvalidArgument(f"cannot read blob {digest}: larger than {limit} bytes")
        if Digest.of(data, digest.algorithm) != digest:
            raise DataLoss(f"cannot read blob {digest}: its bytes on disk do not have this digest")
        return data

    def list(self) -> Iterator[Stored]:
        """Every blob that is here, in no order."""
        for algorithm in HEX_LENGTH:
            for entry in os.scandir(self._root / "blobs" / algorithm):
                if not entry.name.startswith("."):
                    digest = Digest(algorithm, entry.name)
                    yield Stored(digest=digest, size=entry.stat().st_size, path=Path(entry.path))

    def partials(self) -> Iterator[tuple[Digest, int]]:
        """What unfinished pulls left, and how much of it."""
        for entry in os.scandir(self._root / "partial"):
            algorithm, _, encoded = entry.name.partition("-")
            yield Digest(algorithm, encoded), entry.stat().st_size

    def partial_time(self, digest: Digest) -> float:
        """When an unfinished pull was last written to, in seconds since 1970; 0 when there is none."""
        try:
            return self._partial_path(digest).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    async def fault(self, digest: Digest, size: int) -> str | None:
        """What is wrong with a blob on disk, which is hashed anew; None when nothing is."""
        return await self._blocking.run(self._fault, digest, size)

    async def delete(self, digest: Digest) -> bool:
        """Remove a blob; whether it was here. Open readers keep what they read."""
        return await self._blocking.run(self._delete, digest)

    async def delete_partial(self, digest: Digest) -> None:
        """Forget the beginning that an unfinished pull left."""
        with disk_errors(f"delete partial blob {digest}"):
            self._partial_path(digest).unlink(missing_ok=True)

    async def put(self, data: bytes, expected: Digest | None = None) -> Stored:
        """Store bytes at hand; raises DataLoss when they are not `expected`."""
        async with self.ingest(expected, len(data)) as writer:
            await writer.write(data)
            return await writer.commit()

    @asynccontextmanager
    async def ingest(self, expected: Digest | None = None, size: int | None = None) -> AsyncIterator[Writer]:
        """A writer of a new blob, hashed as `expected.algorithm` or sha256; left without commit, nothing stays."""
        path = self._root / "ingest" / secrets.token_hex(16)
        writer = Writer(self, path, _Expected(expected, size))
        async with self._writing(writer, path, keep=False):
            yield writer

    @asynccontextmanager
    async def resume(self, digest: Digest, size: int, arriving: Arriving | None = None) -> AsyncIterator[Writer]:
        """A writer that goes on where an earlier one of this digest stopped (`writer.offset`).

        Left without commit, what was written stays for the next. One at a time: a second caller waits,
        and should look again whether the store `has` the blob. `arriving` is told of what is on disk, so that
        it can be read meanwhile; that all of it is there is for the caller to tell.
        """
        async with self._resuming.of(digest):
            path = self._partial_path(digest)
            writer = Writer(self, path, _Expected(digest, size), arriving)
            async with self._writing(writer, path, keep=True):
                yield writer

    @asynccontextmanager
    async def _writing(self, writer: Writer, path: Path, *, keep: bool) -> AsyncIterator[None]:
        try:
            await self._blocking.run(writer._open)
            writer._tell()
            yield
        finally:
            try:
                await writer._leave(keep=keep)
            finally:
                if not (keep and writer.worth_keeping):
                    writer._discard()

    def adopt(self, path: Path, digest: Digest) -> Stored:
        """Give a verified, synced file of this file system its name as a blob. Blocks; used by writers.

        A blob that is already here is replaced: the two are equal, or the old one has rotted.
        """
        target = self.path(digest)
        with disk_errors(f"store blob {digest}"):
            failpoints.hit("disk.store.rename")
            path.rename(target)
            failpoints.hit("disk.store.renamed")
            sync_directory(target.parent)
            return Stored(digest=digest, size=target.stat().st_size, path=target)

    def _fault(self, digest: Digest, size: int) -> str | None:
        hasher, length = new_hasher(digest.algorithm), 0
        try:
            with self.open_blob(digest) as file:
                while data := file.read(BATCH):
                    hasher.update(data)
                    length += len(data)
        except NotFound:
            return "it is not there"
        except (BulkheadError, OSError) as error:
            return f"it cannot be read: {error}"
        if length != size:
            return f"it has {length} bytes instead of {size}"
        found = Digest.from_hasher(digest.algorithm, hasher)
        return None if found == digest else f"its bytes have digest {found}"

    def _delete(self, digest: Digest) -> bool:
        path = self.path(digest)
        with disk_errors(f"delete blob {digest}"):
            try:
                path.unlink()
            except FileNotFoundError:
                return False
            sync_directory(path.parent)
            return True

    def _partial_path(self, digest: Digest) -> Path:
        return self._root / "partial" / f"{digest.algorithm}-{digest.encoded}"

    def _take_lock(self) -> int:
        return take_lock(self._root / "lock", f"cannot open content store {self._root}: another process uses it")


@dataclass(frozen=True, slots=True)
class _Expected:
    """What a blob must turn out to be."""

    digest: Digest | None
    size: int | None

    @property
    def algorithm(self) -> str:
        return self.digest.algorithm if self.digest is not None else "sha256"

    @property
    def name(self) -> str:
        return f"blob {self.digest}" if self.digest is not None else "blob"


class Writer:
    """Receives a blob's bytes; `commit` names it, or refuses it for its digest or its size."""

    def __init__(self, store: BlobStore, path: Path, expected: _Expected, arriving: Arriving | None = None) -> None:
        self._store = store
        self._arriving = arriving
        self._path = path
        self._expected = expected
        self._fd = -1
        self._hasher: Hasher = new_hasher(expected.algorithm)
        self._pending = bytearray()
        self._written = 0
        self._started = 0
        self._refused = False
        self._committed = False

    @property
    def offset(self) -> int:
        """Bytes received so far, those of an earlier attempt included."""
        return self._written + len(self._pending)

    @property
    def worth_keeping(self) -> bool:
        """Whether what lies on disk is the beginning of the blob, as far as anyone can know."""
        return self._written > 0 and not self._refused and not self._committed

    async def write(self, data: bytes | memoryview) -> None:
        """Append. Raises DataLoss as soon as there are more bytes than expected, ResourceExhausted on a full disk."""
        limit = self._expected.size
        if limit is not None and self.offset + len(data) > limit:
            self._refused = True
            raise DataLoss(f"cannot store {self._expected.name}: more than the expected {limit} bytes")
        self._pending += data
        if len(self._pending) >= BATCH:
            await self._flush()

    async def commit(self) -> Stored:
        """Verify and name the blob, durably. Raises DataLoss when its size or digest is wrong."""
        await self._flush()
        return await self._store.blocking.run(self._commit)

    async def rewind(self) -> None:
        """Throw away all that was received: the peer starts over."""
        self._pending.clear()
        self._refused = False
        if self._arriving is not None:
            self._arriving.broken()
        await self._store.blocking.run(self._truncate)

    async def _flush(self) -> None:
        if self._pending:
            batch, self._pending = self._pending, bytearray()
            await self._store.blocking.run(self._absorb, batch)
            self._tell()

    def _tell(self) -> None:
        if self._arriving is not None:
            self._arriving.grown(self._path, self._written)

    def _absorb(self, batch: bytearray) -> None:
        try:
            with disk_errors(f"store {self._expected.name}"), memoryview(batch) as view:
                write_all(self._fd, view)
        except ResourceExhausted:
            # A full disk is not helped by what we keep on it.
            self._refused = True
            raise
        self._hasher.update(batch)
        self._written += len(batch)
        if self._written - self._started >= WRITEBACK:
            start_writeback(self._fd, self._started, self._written - self._started)
            self._started = self._written

    def _open(self) -> None:
        with disk_errors(f"store {self._expected.name}"):
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            while data := os.pread(self._fd, BATCH, self._written):
                self._hasher.update(data)
                self._written += len(data)
            os.lseek(self._fd, self._written, os.SEEK_SET)
        if self._expected.size is not None and self._written > self._expected.size:
            self._truncate()

    def _truncate(self) -> None:
        with disk_errors(f"store {self._expected.name}"):
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
        self._hasher = new_hasher(self._expected.algorithm)
        self._written = self._started = 0

    def _commit(self) -> Stored:
        wanted = self._expected
        digest = Digest.from_hasher(wanted.algorithm, self._hasher)
        if wanted.size is not None and self._written != wanted.size:
            raise DataLoss(f"cannot store {wanted.name}: got {self._written} of {wanted.size} bytes")
        if wanted.digest is not None and digest != wanted.digest:
            self._refused = True
            raise DataLoss(f"cannot store {wanted.name}: its bytes have digest {digest}")
        with disk_errors(f"store {wanted.name}"):
            os.fdatasync(self._fd)
        stored = self._store.adopt(self._path, digest)
        self._committed = True
        return stored

    def _discard(self) -> None:
        self._path.unlink(missing_ok=True)

    async def _leave(self, *, keep: bool) -> None:
        """Close; bytes that came but were not yet written are, so that a resumed pull has them."""
        try:
            if keep and not self._refused and not self._committed:
                await self._flush()
        except BulkheadError:
            # Whoever is leaving has a reason of their own to report; these bytes can come again.
            self._refused = True
        finally:
            if self._arriving is not None and not self._committed:
                self._arriving.broken()
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


@contextmanager
def _named(digest: Digest, verb: str) -> Iterator[None]:
    """A missing file is NotFound, any other refusal of the kernel ours, with the blob's name."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"cannot {verb} blob {digest}: no such blob") from error
    except OSError as error:
        raise translated(error, f"{verb} blob {digest}") from error
