"""One blob on its way from a registry: resumed, retried, and a big one over several connections at once.

A big blob is asked for in spans, a few of them ahead of the one being written: what is on disk is always the
verified beginning, so that any interruption is resumed from one number.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from bulkhead.content.endpoint import Answer, Endpoint, pull_scope
from bulkhead.content.manifests import Descriptor
from bulkhead.content.remote_errors import RemoteRefusal, Unreachable
from bulkhead.content.retries import Patience, Tries, Waiting
from bulkhead.content.store import Stored, Writer
from bulkhead.errors import DataLoss, InvalidArgument

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """How a big blob is cut: `ahead` connections at most, `size` bytes each time, never for less than `least`."""

    ahead: int = 3
    size: int = 4 << 20
    least: int = 16 << 20


class Download:
    """One blob from one endpoint into a writer."""

    def __init__(
        self,
        endpoint: Endpoint,
        path: str,
        descriptor: Descriptor,
        writer: Writer,
        *,
        progress: Progress,
        waiting: Waiting,
        patience: Patience,
        spans: Spans,
    ) -> None:
        self._endpoint = endpoint
        self._path = path
        self._target = f"{path}/blobs/{descriptor.digest}"
        self._blob = descriptor
        self._writer = writer
        self._progress = progress
        self._tries = Tries(patience, waiting)
        self._spans = spans

    async def run(self) -> Stored:
        """Have the blob. Raises DataLoss, RemoteRefusal, Unreachable, ResourceExhausted."""
        resumed = self._writer.offset > 0
        while True:
            start = self._writer.offset
            try:
                await self._receive()
                return await self._writer.commit()
            except DataLoss:
                # What an earlier attempt left may be what is wrong: once, from the beginning.
                if not resumed:
                    raise
                resumed = False
                await self._writer.rewind()
            except (RemoteRefusal, Unreachable) as error:
                resumed = resumed or self._writer.offset > 0
                await self._tries.after(error, progressed=self._writer.offset > start)

    async def _receive(self) -> None:
        left = self._blob.size - self._writer.offset
        if left == 0:
            return
        pieces = self._cut() if left >= self._spans.least and self._spans.ahead > 1 else self._whole()
        async with aclosing(pieces) as arriving:
            async for piece in arriving:
                await self._writer.write(piece)
                self._progress(self._writer.offset)
        if self._writer.offset < self._blob.size:
            raise Unreachable(f'Get "{self._target}": unexpected EOF')

    async def _whole(self) -> AsyncGenerator[bytes, None]:
        """Everything from where the writer is, over one connection."""
        offset = self._writer.offset
        async with self._asked(f"bytes={offset}-" if offset else None) as answer:
            if answer.status == 416 or (answer.status == 206 and not _starts_at(answer, offset)):
                raise DataLoss(f"cannot resume blob {self._blob.digest}: the registry has other bytes")
            if answer.status == 200 and offset:
                await self._writer.rewind()
            while piece := await answer.content.readany():
                yield piece

    async def _cut(self) -> AsyncGenerator[bytes, None]:
        """The same in spans; from a registry that knows no ranges, over one connection."""
        starts = deque(range(self._writer.offset, self._blob.size, self._spans.size))
        running: deque[_Span] = deque([self._span(starts.popleft())])
        try:
            cut = await running[0].is_part()
            while cut and running:
                while starts and len(running) < self._spans.ahead:
                    running.append(self._span(starts.popleft()))
                async for piece in running[0].pieces():
                    yield piece
                running.popleft()
        finally:
            for span in running:
                await span.close()
        if not cut:
            async with aclosing(self._whole()) as whole:
                async for piece in whole:
                    yield piece

    def _span(self, start: int) -> _Span:
        end = min(start + self._spans.size, self._blob.size)
        return _Span(self._asked(f"bytes={start}-{end - 1}"), start, end)

    @asynccontextmanager
    async def _asked(self, byte_range: str | None) -> AsyncIterator[Answer]:
        headers = {"Range": byte_range} if byte_range else {}
        expect = (200, 206, 416) if byte_range else (200,)
        scopes = pull_scope(self._path)
        async with self._endpoint.request("GET", self._target, scopes=scopes, headers=headers, expect=expect) as answer:
            check_encoding(answer)
            yield answer


class _Span:
    """Some of a blob, being fetched from the moment that this exists; `close` it unless all was taken."""

    def __init__(self, asked: AbstractAsyncContextManager[Answer], start: int, end: int) -> None:
        self._asked = asked
        self._start = start
        self._end = end
        self._part: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        # Bounded by the span's own length.
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self._task = asyncio.create_task(self._fetch())

    async def is_part(self) -> bool:
        """Whether the registry sends what was asked for, and not the whole. Raises what the request raises."""
        waited: list[asyncio.Future[Any]] = [self._part, self._task]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not self._part.done():
            self._task.result()
        return self._part.result()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The bytes as they come; afterwards the task is done. Raises what the request raises, Unreachable."""
        if not await self.is_part():
            raise Unreachable("cannot pull blob: the registry sends ranges no more")
        left = self._end - self._start
        while left:
            piece = await self._pieces.get()
            if not piece:
                break
            left -= len(piece)
            yield piece
        await self._task

    async def close(self) -> None:
        """Stop fetching."""
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            # Told by now, or of no interest any more.
            self._task.exception()

    async def _fetch(self) -> None:
        try:
            async with self._asked as answer:
                part = answer.status == 206 and _starts_at(answer, self._start)
                self._part.set_result(part)
                if part:
                    await self._take(answer)
        finally:
            self._pieces.put_nowait(b"")

    async def _take(self, answer: Answer) -> None:
        left = self._end - self._start
        while left:
            piece = (await answer.content.readany())[:left]
            if not piece:
                raise Unreachable(f'Get "{answer.url.with_query(None)}": unexpected EOF')
            left -= len(piece)
            self._pieces.put_nowait(piece)


def check_encoding(answer: Answer) -> None:
    """Raise InvalidArgument when what arrives is packed once more: its digest would be another."""
    encoding = answer.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise InvalidArgument(f"cannot use answer of registry: content encoding {encoding[:32]!r} was not asked for")


def _starts_at(answer: Answer, offset: int) -> bool:
    return answer.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
