"""Objects as files below one directory; a key is a path there. What is being written lies in `incoming`."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import BinaryIO

from bulkhead import failpoints
from bulkhead.content.blocking import Blocking
from bulkhead.content.durable import disk_errors, make_directories, sync_directory, write_all
from bulkhead.errors import BulkheadError, DataLoss, NotFound

PIECE = 1 << 20


class FileContent:
    """An open file."""

    def __init__(self, file: BinaryIO, blocking: Blocking) -> None:
        self._file = file
        self._blocking = blocking

    @property
    def file(self) -> BinaryIO:
        return self._file

    async def pieces(self, start: int, length: int) -> AsyncIterator[bytes]:
        offset, end = start, start + length
        while offset < end:
            data = await self._blocking.run(os.pread, self._file.fileno(), min(PIECE, end - offset), offset)
            if not data:
                raise DataLoss("the file is shorter than it was")
            yield data
            offset += len(data)

    async def close(self) -> None:
        self._file.close()


class FileObjects:
    """Implements ports.Objects. Keys' first parts are directories of `root` that hold nothing else."""

    def __init__(self, root: Path, blocking: Blocking) -> None:
        self._root = root
        self._incoming = root / "incoming"
        self._blocking = blocking

    async def open(self) -> None:
        with disk_errors(f"open {self._root}"):
            await self._blocking.run(make_directories, self._incoming)

    async def close(self) -> None:
        return None

    async def adopt(self, path: Path, key: str) -> None:
        await self._blocking.run(self._adopt, path, key)

    async def put(self, key: str, data: bytes) -> None:
        await self._blocking.run(self._put, key, data)

    async def get(self, key: str, limit: int) -> bytes:
        return await self._blocking.run(self._get, key, limit)

    async def read(self, key: str) -> FileContent:
        return FileContent(await self._blocking.run(self._open, key), self._blocking)

    async def size(self, key: str) -> int | None:
        return await self._blocking.run(self._size, key)

    async def delete(self, key: str) -> None:
        await self._blocking.run(self._delete, key)

    async def list(self, prefix: str) -> AsyncIterator[tuple[str, int]]:
        for directory in await self._blocking.run(self._directories, prefix):
            for found in await self._blocking.run(self._files, directory):
                yield found

    async def sweep(self) -> None:
        await self._blocking.run(self._sweep)

    def _adopt(self, path: Path, key: str) -> None:
        target = self._root / key
        with disk_errors(f"store object {key}"):
            make_directories(target.parent)
            failpoints.hit("disk.object.rename")
            path.rename(target)
            failpoints.hit("disk.object.renamed")
            sync_directory(target.parent)

    def _put(self, key: str, data: bytes) -> None:
        path = self._incoming / secrets.token_hex(16)
        try:
            with disk_errors(f"store object {key}"), path.open("xb", buffering=0) as file:
                failpoints.hit("disk.object.write")
                write_all(file.fileno(), data)
                failpoints.hit("disk.object.sync")
                os.fdatasync(file.fileno())
            self._adopt(path, key)
        except BulkheadError:
            path.unlink(missing_ok=True)
            raise

    def _get(self, key: str, limit: int) -> bytes:
        with self._open(key) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise DataLoss(f"cannot read object {key}: larger than {limit} bytes")
        return data

    def _open(self, key: str) -> BinaryIO:
        with disk_errors(f"read object {key}"):
            try:
                return (self._root / key).open("rb", buffering=0)
            except FileNotFoundError:
                raise NotFound(f"cannot read object {key}: there is none") from None

    def _size(self, key: str) -> int | None:
        with disk_errors(f"look up object {key}"):
            try:
                return (self._root / key).stat().st_size
            except FileNotFoundError:
                return None

    def _delete(self, key: str) -> None:
        path = self._root / key
        with disk_errors(f"delete object {key}"):
            try:
                path.unlink()
            except FileNotFoundError:
                return
            failpoints.hit("disk.object.deleted")
            sync_directory(path.parent)

    def _directories(self, prefix: str) -> Sequence[Path]:
        top = self._root / prefix
        return [Path(place) for place, _, _ in os.walk(top)]

    def _files(self, directory: Path) -> Sequence[tuple[str, int]]:
        found = []
        with disk_errors(f"list {directory}"), os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    key = str(Path(entry.path).relative_to(self._root))
                    try:
                        found.append((key, entry.stat(follow_symlinks=False).st_size))
                    except FileNotFoundError:
                        continue
        return found

    def _sweep(self) -> None:
        with disk_errors(f"sweep {self._incoming}"):
            for left in self._incoming.iterdir():
                left.unlink(missing_ok=True)
