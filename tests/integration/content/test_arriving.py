"""A layer that is unpacked while it is still being fetched."""

from __future__ import annotations

import asyncio
import gzip
import os
from pathlib import Path

import pytest

from bulkhead.content import media_types
from bulkhead.content.arriving import Arriving, Interrupted
from bulkhead.content.unpack import unpack_layer
from bulkhead.errors import DataLoss
from bulkhead.model.digest import Digest
from tests.integration.content.tars import Member, archive, diff_id

TAR = archive(*(Member(name=b"f%d" % number, data=os.urandom(200_000)) for number in range(10)))
BLOB = gzip.compress(TAR, 1)


def unpacking(arriving: Arriving, target: Path) -> asyncio.Task[object]:
    kind = media_types.OCI_LAYER_GZIP
    return asyncio.create_task(unpack_layer(arriving, kind, target, Digest.parse(diff_id(TAR))))


def written(path: Path, data: bytes) -> int:
    with path.open("ab") as file:
        file.write(data)
    return path.stat().st_size


async def first_file(target: Path) -> None:
    while not (target / "f0").exists():  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.01)


async def test_it_is_unpacked_as_it_grows(tmp_path: Path, target: Path) -> None:
    arriving, path = Arriving(), tmp_path / "partial"
    task = unpacking(arriving, target)
    arriving.grown(path, written(path, BLOB[:5]))
    arriving.grown(path, written(path, BLOB[5 : len(BLOB) // 2]))
    await first_file(target)
    assert not task.done(), "half a layer is none"
    size = written(path, BLOB[len(BLOB) // 2 :])
    arriving.grown(path, size)
    arriving.whole(path.rename(tmp_path / "blob"), size)
    await task
    assert (target / "f9").exists()


async def test_one_that_starts_over_is_given_up(tmp_path: Path, target: Path) -> None:
    arriving, path = Arriving(), tmp_path / "partial"
    task = unpacking(arriving, target)
    arriving.grown(path, written(path, BLOB[: len(BLOB) // 2]))
    await first_file(target)
    arriving.broken()
    with pytest.raises(Interrupted):
        await task


async def test_all_bytes_and_no_verdict_is_no_layer(tmp_path: Path, target: Path) -> None:
    """The archive's end has come, but nobody said yet that its bytes are those of its digest."""
    arriving, path = Arriving(), tmp_path / "partial"
    task = unpacking(arriving, target)
    arriving.grown(path, written(path, BLOB))
    await first_file(target)
    done, _ = await asyncio.wait([task], timeout=0.2)
    assert not done
    arriving.whole(path, len(BLOB))
    await task


async def test_a_damaged_beginning_is_told_at_once(tmp_path: Path, target: Path) -> None:
    arriving, path = Arriving(), tmp_path / "partial"
    task = unpacking(arriving, target)
    arriving.grown(path, written(path, b"no archive at all" * 1000))
    with pytest.raises(DataLoss):
        await task
