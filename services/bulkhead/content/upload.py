"""One blob on its way to a registry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from enum import Enum
from pathlib import Path

from yarl import URL

from bulkhead.content.blocking import Blocking
from bulkhead.content.endpoint import Answer, Endpoint, pull_scope, push_scope
from bulkhead.content.remote_errors import RemoteRefusal, Unreachable
from bulkhead.content.retries import Patience, Tries, Waiting
from bulkhead.errors import Unavailable
from bulkhead.model.digest import Digest

Progress = Callable[[int], None]
PIECE = 1 << 20


class Pushed(Enum):
    """How a blob came to be in a repository."""

    EXISTED = "exists"
    MOUNTED = "mounted"
    UPLOADED = "uploaded"


class Upload:
    """One blob on its way to a repository; a cut connection is continued where the registry says it is."""

    def __init__(
        self,
        endpoint: Endpoint,
        path: str,
        digest: Digest,
        file: Path,
        blocking: Blocking,
        progress: Progress,
        patience: Patience,
        waiting: Waiting = lambda _: None,
    ) -> None:
        self._endpoint = endpoint
        self._path = path
        self._digest = digest
        self._file = file
        self._size = file.stat().st_size
        self._blocking = blocking
        self._progress = progress
        self._tries = Tries(patience, waiting)
        self._arrived = 0
        self._gained = False
        self._scopes = push_scope(path)

    async def run(self, mount_from: str | None) -> Pushed:
        location = await self._start(mount_from)
        if location is None:
            return Pushed.MOUNTED
        offset, resumed = 0, False
        while True:
            try:
                location = await self._send(location, offset, resumed=resumed)
                await self._finish(location)
                return Pushed.UPLOADED
            except (RemoteRefusal, Unreachable) as error:
                before = offset
                location, offset, resumed = await self._position(location, error, before)

    async def _start(self, mount_from: str | None) -> URL | None:
        scopes, query = self._scopes, ""
        if mount_from is not None:
            scopes = (*scopes, *pull_scope(mount_from))
            query = f"?mount={self._digest}&from={mount_from}"
        target = f"{self._path}/blobs/uploads/{query}"
        async with self._endpoint.request("POST", target, scopes=scopes, body=bytes, expect=(201, 202)) as answer:
            return None if answer.status == 201 else self._location(answer)

    async def _send(self, location: URL, offset: int, *, resumed: bool) -> URL:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(self._size - offset)}
        if resumed and self._size:
            # Also at 0: without it the rest would be put after what a cut request brought in the end.
            headers["Content-Range"] = f"{offset}-{self._size - 1}"
        async with self._endpoint.request(
            "PATCH", location, scopes=self._scopes, headers=headers, body=lambda: self._body(offset), expect=(202,)
        ) as answer:
            return self._location(answer)

    async def _finish(self, location: URL) -> None:
        url = location.update_query(digest=str(self._digest))
        async with self._endpoint.request("PUT", url, scopes=self._scopes, body=bytes, expect=(201,)):
            return

    async def _position(self, location: URL, error: RemoteRefusal | Unreachable, before: int) -> tuple[URL, int, bool]:
        """Where to go on after `error`, and whether that is in the same session; raised when it is of no use."""
        if isinstance(error, RemoteRefusal) and error.status == 404:
            await self._tries.after(Unreachable(str(error)), progressed=False)
            return await self._restart()
        misplaced = isinstance(error, RemoteRefusal) and error.status == 416
        if misplaced:
            # What a cut request had brought was counted only after the registry told where we are.
            error = Unreachable(str(error))
        # Whether the last try brought anything is known since the registry was asked after it.
        await self._tries.after(error, progressed=self._gained)
        self._gained = False
        try:
            async with self._endpoint.request("GET", location, scopes=self._scopes, expect=(204,)) as answer:
                last = answer.headers.get("Range", "0-0").rpartition("-")[2]
                offset = int(last) + 1 if last.isdigit() and int(last) > 0 else 0
                self._gained, self._arrived = offset > self._arrived, max(offset, self._arrived)
                if not misplaced or offset != before:
                    return self._location(answer, location), min(offset, self._size), True
        except Unreachable:
            return location, before, True
        except RemoteRefusal:
            pass
        return await self._restart()

    async def _restart(self) -> tuple[URL, int, bool]:
        location = await self._start(None)
        if location is None:
            raise Unavailable(f"cannot push blob {self._digest}: the registry did not start an upload")
        return location, 0, False

    def _location(self, answer: Answer, fallback: URL | None = None) -> URL:
        header = answer.headers.get("Location")
        if header is None:
            if fallback is not None:
                return fallback
            raise Unavailable(f"cannot push blob {self._digest}: the registry gave no upload location")
        return self._endpoint.resolve(answer, header)

    async def _body(self, offset: int) -> AsyncIterator[bytes]:
        with self._file.open("rb", buffering=0) as file:
            file.seek(offset)
            while piece := await self._blocking.run(file.read, PIECE):
                yield piece
                offset += len(piece)
                self._progress(offset)
