"""Layers unpacked by a confined process each, so that a hostile one meets neither our loop nor our files."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bulkhead.content import media_types
from bulkhead.content.arriving import Arriving
from bulkhead.content.inflate import WHOLE, Limits
from bulkhead.content.worker import Worker, end, error_told, start
from bulkhead.errors import Internal, InvalidArgument
from bulkhead.model.digest import Digest

_WORKER = "bulkhead.content.unpack_worker"
# In the place of the marks' pipe: there are none, the layer itself comes through one.
PIPE = "pipe"
# Before another try to write into a pipe that holds thousands of marks (seconds).
_FULL_PIPE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackResult:
    """A layer that now is a directory."""

    size: int
    """Bytes of its regular files: what Docker calls a layer's size."""
    diff_id: Digest
    entries: int
    implied: tuple[str, ...]
    """Directories that no entry described (root's, 0755): they hide the attributes of those in lower layers.

    The layer's own root is "".
    """


async def unpack_layer(
    blob: Path | Arriving,
    media_type: str,
    target: Path,
    expected_diff_id: Digest | None,
    progress: Callable[[int], None] | None = None,
    *,
    limits: Limits | None = None,
) -> UnpackResult:
    """Apply the layer in `blob`, a file or one that is still being written, to the empty directory `target`.

    Needs root. `progress(bytes of the blob consumed)`. Raises InvalidArgument for a hostile archive, DataLoss for
    a damaged one or a wrong diff id, ResourceExhausted for a full disk, Interrupted for a blob that starts over:
    the caller then removes `target`. When this
    returns or raises, however that came, nobody writes to `target` any more. Nothing is synced: one syncfs(2)
    after the last layer of an image costs less (`sync_file_system`).
    """
    if media_type not in media_types.LAYERS:
        raise InvalidArgument(f"cannot unpack layer: media type {media_type!r} is not supported")
    arguments = _arguments(target, expected_diff_id, limits or Limits())
    if isinstance(blob, Arriving):
        return await _follow(blob, arguments, progress)
    with _opened(blob) as source:
        worker = await _start(source, [*arguments, "-"])
    try:
        return await _listen(worker, progress)
    finally:
        await end(worker)


async def unpack_plain(source: BinaryIO, target: Path, limits: Limits) -> UnpackResult:
    """Apply the tar, not packed, that comes through a pipe to the empty directory `target`; see `unpack_layer`.

    Our end of it is closed: whoever writes there hears when the worker is gone.
    """
    with source:
        worker = await _start(source.fileno(), [*_arguments(target, None, limits), PIPE])
    try:
        return await _listen(worker, None)
    finally:
        await end(worker)


def sync_file_system(path: Path) -> None:
    """syncfs(2) of the file system that `path` is on. Blocks; raises OSError."""
    # os has no syncfs; ctypes is imported here alone.
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(fd)


async def _follow(blob: Arriving, arguments: list[str], progress: Callable[[int], None] | None) -> UnpackResult:
    """Unpack a layer as it comes; its worker ends well only when the blob turned out to be what it should be."""
    with contextlib.ExitStack() as stack:
        with _opening():
            source, generation = await blob.open()
        stack.callback(os.close, source)
        marks, ours = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(ours, False)
        stack.callback(os.close, ours)
        try:
            worker = await _start(source, [*arguments, str(marks)], marks)
        finally:
            os.close(marks)
        feeding = asyncio.create_task(_feed(ours, blob, generation))
        listening = asyncio.create_task(_listen(worker, progress))
        try:
            await asyncio.wait([feeding, listening], return_when=asyncio.FIRST_COMPLETED)
            if not listening.done():
                await feeding
            return await listening
        finally:
            for task in (feeding, listening):
                task.cancel()
            await end(worker)
            await asyncio.wait([feeding, listening])


async def _feed(marks: int, blob: Arriving, generation: int) -> None:
    """Tell the worker how far it may read. Raises Interrupted."""
    size, whole = -1, False
    while not whole:
        size, whole = await blob.after(size, generation)
        mark = (size | (WHOLE if whole else 0)).to_bytes(8, "little")
        # A worker that is gone is heard of elsewhere.
        with contextlib.suppress(BrokenPipeError):
            while not _written(marks, mark):  # noqa: ASYNC110 - a pipe's space is no event of ours
                await asyncio.sleep(_FULL_PIPE)


def _written(fd: int, mark: bytes) -> bool:
    try:
        return os.write(fd, mark) == len(mark)
    except BlockingIOError:
        return False


@contextlib.contextmanager
def _opened(blob: Path) -> Iterator[int]:
    with _opening():
        source = os.open(blob, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield source
    finally:
        os.close(source)


@contextlib.contextmanager
def _opening() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Internal(f"cannot unpack layer {error.filename}: {(error.strerror or '').lower()}") from error


async def _start(source: int, arguments: list[str], *kept: int) -> Worker:
    return await start(_WORKER, "unpack", arguments, source=source, kept=kept)


def _arguments(target: Path, expected: Digest | None, limits: Limits) -> list[str]:
    told = ",".join(str(value) for value in (limits.size, limits.entries, limits.ratio, limits.allowance))
    return [str(os.getpid()), str(target.absolute()), str(expected) if expected else "-", told]


async def _listen(worker: Worker, progress: Callable[[int], None] | None) -> UnpackResult:
    assert worker.stdout is not None
    implied: list[str] = []
    while line := (await worker.stdout.readline()).decode().split():
        match line:
            case ["p", taken] if progress is not None:
                progress(int(taken))
            case ["i", *path]:
                # The layer's root has no name.
                implied.append(os.fsdecode(bytes.fromhex("".join(path))))
            case ["r", size, entries, diff_id]:
                return UnpackResult(
                    size=int(size), entries=int(entries), diff_id=Digest.parse(diff_id), implied=tuple(implied)
                )
            case ["e", kind, message]:
                raise error_told(kind, bytes.fromhex(message).decode())
    raise Internal("cannot unpack layer: the worker died")
