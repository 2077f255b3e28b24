"""Upload sessions: bytes in one local file, the count of durable ones in another.

Also where blobs end in a bucket their bytes pass here first: a session can then be continued after any crash,
and nothing reaches the bucket before its digest was verified.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bulkhead.content.blocking import Blocking
from bulkhead.content.durable import disk_errors, make_directories, start_writeback, write_all, write_file
from bulkhead.content.store import BATCH
from bulkhead.errors import BulkheadError
from bulkhead.model.digest import Digest, Hasher, new_hasher
from bulkhead.registry.errors import Code, Refusal
from bulkhead.registry.ports import Blob, Upload

# A hasher cannot be saved; sessions beyond these are hashed again from their file when they go on.
MAX_WARM = 1024

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    repository: str
    algorithm: str
    offset: int
    started: float


@dataclass(slots=True)
class _Session:
    """What this process knows of an upload beyond its record."""

    record: _Record
    hasher: Hasher
    absorbed: int
    """Bytes in the file and in the hasher; durable ones are `record.offset`."""
    owner: object = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


# Stores and links verified bytes: repository, digest, size, the file, which it may take away.
Keep = Callable[[str, Digest, int, Path], Awaitable[Blob]]


class Sessions:
    """The upload sessions below one directory: `<uuid>.data` and `<uuid>.json`."""

    def __init__(self, root: Path, blocking: Blocking, keep: Keep, ttl: float) -> None:
        self._root = root
        self.blocking = blocking
        self.keep = keep
        self._ttl = ttl
        self._sessions: dict[str, _Session] = {}

    def open(self) -> None:
        """Make the directory; remove halves of sessions. Blocks; for start-up."""
        with disk_errors(f"open {self._root}"):
            make_directories(self._root)
            for path in list(self._root.iterdir()):
                if not (path.with_suffix(".data").exists() and path.with_suffix(".json").exists()):
                    path.unlink(missing_ok=True)

    async def sweep(self, now: float) -> int:
        """Remove sessions that nobody has continued for their time to live; how many."""
        idle = [each for each in await self.blocking.run(self._older, now - self._ttl) if not self._is_busy(each)]
        for upload_id in idle:
            await self.blocking.run(self.discard, upload_id)
        return len(idle)

    def _is_busy(self, upload_id: str) -> bool:
        session = self._sessions.get(upload_id)
        return session is not None and session.owner is not None

    def _older(self, horizon: float) -> list[str]:
        with disk_errors(f"sweep {self._root}"):
            return [path.stem for path in self._root.glob("*.data") if _modified(path) < horizon]

    def data(self, upload_id: str) -> Path:
        return self._root / f"{upload_id}.data"

    def record(self, upload_id: str) -> Path:
        return self._root / f"{upload_id}.json"

    async def start(self, repository: str, algorithm: str) -> Upload:
        hasher = new_hasher(algorithm)
        upload_id = str(uuid.uuid4())
        record = _Record(repository=repository, algorithm=algorithm, offset=0, started=time.time())
        await self.blocking.run(self._create, upload_id, record)
        self._remember(upload_id, _Session(record, hasher, 0))
        return self._upload(upload_id, record)

    async def get(self, repository: str, upload_id: str) -> Upload:
        session = await self._session(repository, upload_id)
        return Upload(id=upload_id, repository=repository, algorithm=session.record.algorithm, offset=session.absorbed)

    async def cancel(self, upload: Upload) -> None:
        session = await self._session(upload.repository, upload.id)
        session.owner = None
        async with session.lock:
            await self.blocking.run(self.discard, upload.id)

    @asynccontextmanager
    async def writing(self, upload: Upload) -> AsyncIterator[_Writer]:
        """See ports.Storage.writing."""
        session = await self._session(upload.repository, upload.id)
        owner = session.owner = object()
        async with session.lock:
            # Whatever the owner before us had under way has ended: from here its writes are refused.
            fd = await self.blocking.run(self._open, upload.id, session)
        writer = _Writer(self, upload.id, session, owner, fd)
        try:
            yield writer
        except BaseException:
            # The first failure is the one to tell: a full disk would only say so twice.
            with suppress(BulkheadError):
                await writer.leave()
            raise
        await writer.leave()

    async def _session(self, repository: str, upload_id: str) -> _Session:
        if not _ID.fullmatch(upload_id):
            raise Refusal(Code.BLOB_UPLOAD_UNKNOWN)
        session = self._sessions.get(upload_id)
        if session is None:
            revived = await self.blocking.run(self._revive, upload_id)
            session = self._sessions.get(upload_id) or revived
            self._remember(upload_id, session)
        if session.record.repository != repository:
            raise Refusal(Code.BLOB_UPLOAD_UNKNOWN)
        return session

    def _remember(self, upload_id: str, session: _Session) -> None:
        self._sessions[upload_id] = session
        if len(self._sessions) > MAX_WARM:
            idle = next((key for key, value in self._sessions.items() if value.owner is None), None)
            if idle is not None and idle != upload_id:
                del self._sessions[idle]

    def _upload(self, upload_id: str, record: _Record) -> Upload:
        return Upload(id=upload_id, repository=record.repository, algorithm=record.algorithm, offset=record.offset)

    def _create(self, upload_id: str, record: _Record) -> None:
        with disk_errors("start upload"):
            os.close(os.open(self.data(upload_id), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            write_file(self.record(upload_id), msgspec.json.encode(record))

    def _open(self, upload_id: str, session: _Session) -> int:
        with disk_errors("continue upload"):
            try:
                fd = os.open(self.data(upload_id), os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                raise Refusal(Code.BLOB_UPLOAD_UNKNOWN) from None
            # A batch that failed half-way left bytes that no hasher has seen.
            os.ftruncate(fd, session.absorbed)
            return fd

    def _revive(self, upload_id: str) -> _Session:
        """A session of an earlier process: only what was counted durable is believed."""
        path = self.data(upload_id)
        try:
            record = msgspec.json.decode(self.record(upload_id).read_bytes(), type=_Record)
            with path.open("r+b", buffering=0) as file:
                if os.fstat(file.fileno()).st_size < record.offset:
                    raise Refusal(Code.BLOB_UPLOAD_UNKNOWN)
                file.truncate(record.offset)
        except (FileNotFoundError, msgspec.MsgspecError):
            raise Refusal(Code.BLOB_UPLOAD_UNKNOWN) from None
        return _Session(record, _hash_file(path, record.algorithm), record.offset)

    def discard(self, upload_id: str) -> None:
        self._sessions.pop(upload_id, None)
        with disk_errors("end upload"):
            self.record(upload_id).unlink(missing_ok=True)
            self.data(upload_id).unlink(missing_ok=True)


class _Writer:
    """The request that now writes to a session (see ports.UploadWriter)."""

    def __init__(
        self,
        sessions: Sessions,
        upload_id: str,
        session: _Session,
        owner: object,
        fd: int,
    ) -> None:
        self._sessions = sessions
        self._id = upload_id
        self._session = session
        self._owner = owner
        self._fd = fd
        self._pending = bytearray()
        self._received = session.absorbed
        self._absorbing: asyncio.Task[None] | None = None
        self._ended = False

    @property
    def offset(self) -> int:
        return self._received

    async def write(self, data: bytes) -> None:
        self._pending += data
        self._received += len(data)
        if len(self._pending) >= BATCH:
            await self._settle()
            self._check_owner()
            batch, self._pending = self._pending, bytearray()
            # The next batch arrives while this one is hashed and written.
            self._absorbing = asyncio.create_task(self._absorb(batch))

    async def finish(self, digest: Digest) -> Blob:
        await self._flush()
        async with self._session.lock:
            self._check_owner()
            sessions, repository = self._sessions, self._session.record.repository
            await sessions.blocking.run(self._verify, digest)
            blob = await sessions.keep(repository, digest, self._session.absorbed, sessions.data(self._id))
            self._ended = True
            await sessions.blocking.run(sessions.discard, self._id)
        return blob

    async def leave(self) -> None:
        """Count what came, even when the peer was cut off: it is where the client will go on."""
        try:
            if not self._ended and self._session.owner is self._owner:
                await self._flush()
                async with self._session.lock:
                    await self._sessions.blocking.run(self._count)
        finally:
            try:
                # What is still being written uses the file; a cancelled wait for it waits all the same.
                with suppress(BulkheadError):
                    await self._settle()
            finally:
                if self._session.owner is self._owner:
                    self._session.owner = None
                os.close(self._fd)

    async def _flush(self) -> None:
        await self._settle()
        if self._pending:
            batch, self._pending = self._pending, bytearray()
            await self._absorb(batch)

    async def _settle(self) -> None:
        """Wait for the batch on its way; raises what went wrong with it."""
        if self._absorbing is not None:
            absorbing, self._absorbing = self._absorbing, None
            await absorbing

    async def _absorb(self, batch: bytearray) -> None:
        async with self._session.lock:
            self._check_owner()
            await self._sessions.blocking.run(self._store, batch)

    def _check_owner(self) -> None:
        if self._session.owner is not self._owner:
            raise Refusal(Code.BLOB_UPLOAD_INVALID, "another request continues this upload")

    def _store(self, batch: bytearray) -> None:
        os.lseek(self._fd, self._session.absorbed, os.SEEK_SET)
        with disk_errors("store upload"), memoryview(batch) as view:
            write_all(self._fd, view)
        start_writeback(self._fd, self._session.absorbed, len(batch))
        self._session.hasher.update(batch)
        self._session.absorbed += len(batch)

    def _count(self) -> None:
        record = self._session.record
        if self._session.absorbed == record.offset:
            return
        with disk_errors("store upload"):
            os.fdatasync(self._fd)
            record.offset = self._session.absorbed
            write_file(self._sessions.record(self._id), msgspec.json.encode(record))

    def _verify(self, digest: Digest) -> None:
        """The bytes are the digest's, and durable; otherwise the session is over."""
        session, path = self._session, self._sessions.data(self._id)
        hasher = session.hasher
        if digest.algorithm != session.record.algorithm:
            hasher = _hash_file(path, digest.algorithm)
        found = Digest.from_hasher(digest.algorithm, hasher)
        if found != digest:
            self._sessions.discard(self._id)
            self._ended = True
            raise Refusal(Code.DIGEST_INVALID, detail={"expected": str(digest), "actual": str(found)})
        with disk_errors("store upload"):
            os.fdatasync(self._fd)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _hash_file(path: Path, algorithm: str) -> Hasher:
    hasher = new_hasher(algorithm)
    with path.open("rb", buffering=0) as file:
        while data := file.read(BATCH):
            hasher.update(data)
    return hasher
