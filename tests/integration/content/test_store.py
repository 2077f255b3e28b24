"""A blob has its name only when every byte is verified and on disk; what died on the way leaves nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bulkhead.content.blocking import Blocking
from bulkhead.content.durable import disk_errors, make_directories, write_file
from bulkhead.content.store import BATCH, BlobStore
from bulkhead.errors import Conflict, DataLoss, Internal, InvalidArgument, NotFound, ResourceExhausted
from bulkhead.model.digest import Digest

DATA = os.urandom(BATCH * 2 + 777)
DIGEST = Digest.of(DATA)


def files_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_a_committed_blob_is_there(store: BlobStore, algorithm: str) -> None:
    digest = Digest.of(DATA, algorithm)
    async with store.ingest(digest, len(DATA)) as writer:
        for start in range(0, len(DATA), 100_000):
            await writer.write(DATA[start : start + 100_000])
        assert not store.has(digest)
        stored = await writer.commit()
    assert (stored.digest, stored.size, stored.path) == (digest, len(DATA), store.path(digest))
    assert (store.has(digest), store.size(digest), store.read(digest, len(DATA))) == (True, len(DATA), DATA)
    assert [entry.digest for entry in store.list()] == [digest]
    with store.open_blob(digest) as file:
        assert file.read(10) == DATA[:10]


async def test_a_digest_nobody_expected_is_computed(store: BlobStore) -> None:
    async with store.ingest() as writer:
        await writer.write(b"content")
        assert (await writer.commit()).digest == Digest.of(b"content")


@pytest.mark.parametrize(
    ("digest", "size"),
    [(Digest.of(b"other"), None), (None, len(DATA) + 1), (Digest.of(b"other"), len(DATA))],
    ids=["digest", "too few bytes", "digest, size right"],
)
async def test_what_is_not_as_expected_is_refused_and_gone(
    store: BlobStore, digest: Digest | None, size: int | None
) -> None:
    with pytest.raises(DataLoss):
        async with store.ingest(digest, size) as writer:
            await writer.write(DATA)
            await writer.commit()
    assert files_below(store.root) == ["lock"]


async def test_too_many_bytes_are_refused_as_they_come(store: BlobStore) -> None:
    with pytest.raises(DataLoss, match="more than the expected 10 bytes"):
        async with store.ingest(DIGEST, 10) as writer:
            await writer.write(b"x" * 11)
    assert files_below(store.root) == ["lock"]


async def test_leaving_without_commit_leaves_nothing(store: BlobStore) -> None:
    async with store.ingest(DIGEST, len(DATA)) as writer:
        await writer.write(DATA)
    assert files_below(store.root) == ["lock"]


async def test_a_resumed_blob_goes_on_after_a_restart(tmp_path: Path) -> None:
    first = BlobStore(tmp_path / "s")
    first.open()
    async with first.resume(DIGEST, len(DATA)) as writer:
        await writer.write(DATA[:100_000])
    first.close()
    second = BlobStore(tmp_path / "s")
    second.open()
    assert list(second.partials()) == [(DIGEST, 100_000)]
    async with second.resume(DIGEST, len(DATA)) as writer:
        assert writer.offset == 100_000
        await writer.write(DATA[100_000:])
        await writer.commit()
    assert second.read(DIGEST, len(DATA)) == DATA
    assert list(second.partials()) == []
    second.close()


async def test_a_beginning_that_turns_out_wrong_is_not_kept(store: BlobStore) -> None:
    with pytest.raises(DataLoss):
        async with store.resume(DIGEST, 5) as writer:
            await writer.write(b"wrong")
            await writer.commit()
    assert list(store.partials()) == []


async def test_a_beginning_longer_than_the_blob_starts_over(store: BlobStore) -> None:
    async with store.resume(DIGEST, len(DATA)) as writer:
        await writer.write(b"x" * 1000)
    async with store.resume(DIGEST, 10) as writer:
        assert writer.offset == 0


async def test_one_at_a_time_writes_a_partial(store: BlobStore) -> None:
    inside = 0

    async def fetch() -> None:
        nonlocal inside
        async with store.resume(DIGEST, len(DATA)) as writer:
            inside += 1
            assert inside == 1
            if not store.has(DIGEST):
                await writer.write(DATA)
                await writer.commit()
            inside -= 1

    await asyncio.gather(*(fetch() for _ in range(5)))
    assert store.read(DIGEST, len(DATA)) == DATA


async def test_cancelling_a_writer_waits_for_its_thread(store: BlobStore) -> None:
    started = asyncio.Event()

    async def write() -> None:
        async with store.ingest(DIGEST, None) as writer:
            started.set()
            while True:
                await writer.write(DATA[:BATCH])

    task = asyncio.create_task(write())
    await started.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files_below(store.root) == ["lock"]


async def test_a_file_that_does_not_close_is_not_left_behind(store: BlobStore) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):  # as a file server's close(2) fails of a full disk
        async with store.ingest() as writer:
            os.close(writer._fd)
    assert files_below(store.root) == ["lock"]


async def test_a_blob_that_rotted_is_told_and_healed_by_the_next_copy(store: BlobStore) -> None:
    await store.put(b"content")
    digest = Digest.of(b"content")
    store.path(digest).write_bytes(b"CONTENT")
    with pytest.raises(DataLoss, match="do not have this digest"):
        store.read(digest, 100)
    await store.put(b"content", digest)
    assert store.read(digest, 100) == b"content"


async def test_deleting_leaves_open_readers_alone(store: BlobStore) -> None:
    await store.put(b"content")
    digest = Digest.of(b"content")
    with store.open_blob(digest) as file:
        assert await store.delete(digest)
        assert file.read() == b"content"
    assert not await store.delete(digest)
    with pytest.raises(NotFound):
        store.open_blob(digest)
    with pytest.raises(NotFound):
        store.size(digest)


async def test_a_large_blob_is_not_read_into_memory(store: BlobStore) -> None:
    stored = await store.put(DATA)
    with pytest.raises(InvalidArgument, match="larger than 100 bytes"):
        store.read(stored.digest, 100)


async def test_a_full_disk_is_said_and_nothing_is_kept(small_disk: Path) -> None:
    store = BlobStore(small_disk / "s")
    store.open()
    big = os.urandom(4 << 20)
    for writing in (store.ingest(Digest.of(big), len(big)), store.resume(Digest.of(big), len(big))):
        with pytest.raises(ResourceExhausted, match="no space left on device: remove what is unused"):
            async with writing as writer:
                for start in range(0, len(big), 500_000):
                    await writer.write(big[start : start + 500_000])
                await writer.commit()
    assert files_below(store.root) == ["lock"]
    await store.put(b"there is room again")
    store.close()


def test_a_store_has_one_owner(store: BlobStore) -> None:
    with pytest.raises(Conflict, match="another process uses it"):
        BlobStore(store.root).open()


def test_a_killed_writer_leaves_nothing_that_counts(tmp_path: Path) -> None:
    """SIGKILL between the first byte and the name: the next opening sweeps."""
    script = """
import asyncio, os, signal, sys
from pathlib import Path
from bulkhead.content.store import BlobStore
async def main():
    store = BlobStore(Path(sys.argv[1]))
    store.open()
    async with store.ingest() as writer:
        await writer.write(b"x" * (3 << 20))
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "s")], check=False)
    assert done.returncode == -9
    assert any((tmp_path / "s" / "ingest").iterdir())
    store = BlobStore(tmp_path / "s")
    store.open()
    assert files_below(store.root) == ["lock"]
    store.close()


def test_small_files_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    make_directories(path.parent)
    write_file(path, b"one")
    write_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert files_below(tmp_path) == ["a/b/file"]


@pytest.mark.parametrize(("number", "kind"), [(28, ResourceExhausted), (122, ResourceExhausted), (5, Internal)])
def test_what_the_kernel_refuses_has_our_words(number: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^cannot do it: "), disk_errors("do it"):
        raise OSError(number, os.strerror(number))


async def test_the_pool_hands_errors_on() -> None:
    pool = Blocking(1)

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await pool.run(fail)
    pool.close()
