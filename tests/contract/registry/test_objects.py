"""The exam of every store of objects: what ports.Objects promises."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from bulkhead.content.blocking import Blocking
from bulkhead.errors import DataLoss, NotFound
from bulkhead.registry.ports import Objects

# Three parts of a multipart upload, the last one short.
LARGE = os.urandom(1 << 20) * 17 + b"tail"


@pytest.fixture
async def store(objects: Callable[[Blocking], Objects]) -> AsyncIterator[Objects]:
    blocking = Blocking(4)
    store = objects(blocking)
    await store.open()
    yield store
    await store.close()
    blocking.close()


async def read(store: Objects, key: str, start: int, length: int) -> bytes:
    content = await store.read(key)
    try:
        return b"".join([piece async for piece in content.pieces(start, length)])
    finally:
        await content.close()


async def test_small_objects_are_put_got_and_replaced(store: Objects) -> None:
    for data in (b"first", b"", b"second"):
        await store.put("records/a", data)
        assert await store.get("records/a", 100) == data
        assert await store.size("records/a") == len(data)
    with pytest.raises(DataLoss):
        await store.get("records/a", 3)


@pytest.mark.parametrize("data", [b"", b"small", LARGE], ids=["empty", "small", "large"])
async def test_a_file_becomes_an_object(store: Objects, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "root/upload"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    await store.adopt(path, "objects/aa/bb")
    assert await store.size("objects/aa/bb") == len(data)
    assert await read(store, "objects/aa/bb", 0, len(data)) == data
    assert (
        await read(store, "objects/aa/bb", len(data) // 2, len(data) // 3) == data[len(data) // 2 :][: len(data) // 3]
    )


async def test_what_is_not_there_is_not_found(store: Objects) -> None:
    for call in (store.get("objects/none", 9), store.read("objects/none")):
        with pytest.raises(NotFound):
            await call
    assert await store.size("objects/none") is None
    await store.delete("objects/none")


async def test_a_deleted_object_is_gone(store: Objects) -> None:
    await store.put("objects/aa/x", b"1")
    await store.delete("objects/aa/x")
    assert await store.size("objects/aa/x") is None


async def test_only_what_is_below_the_prefix_is_listed(store: Objects) -> None:
    keys = {f"objects/{number:02x}/y": number for number in range(20)}
    for key, size in keys.items():
        await store.put(key, b"x" * size)
    await store.put("records/z", b"")
    await store.sweep()
    assert {key: size async for key, size in store.list("objects/")} == keys
    assert [key async for key, _ in store.list("records/")] == ["records/z"]
    assert [key async for key, _ in store.list("nothing/")] == []
