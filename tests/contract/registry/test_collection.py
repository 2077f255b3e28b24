"""What the collector takes, what it leaves, and that a lost database is read back from the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bulkhead.content.media_types import OCI_INDEX, OCI_MANIFEST
from bulkhead.model.digest import Digest
from bulkhead.registry.adapters.storage import OBJECTS, DurableStorage
from bulkhead.registry.collection import Policy
from bulkhead.registry.errors import Code, Refusal
from bulkhead.registry.ports import Objects, Swept
from tests.contract.registry.conftest import Clock, Make, opened
from tests.contract.registry.test_storage import DATA, DIGEST, new_manifest, put_blob, whole
from tests.integration.registry.wire import index_of, manifest_of, wire

POLICY = Policy(grace=100.0, reader_grace=10.0, upload_ttl=1000.0, untagged=True)
# Real ones: what they need is read from their own bytes.
CHILD = manifest_of(config=wire("a/b", DATA), layers=[])
REFERRER = index_of(subject=wire(OCI_MANIFEST, DATA))
PATIENT = Policy(grace=100.0, reader_grace=10.0)


async def stored(objects: Objects) -> set[str]:
    return {key async for key, _ in objects.list(OBJECTS)}


def objects_of(storage: DurableStorage) -> Objects:
    return storage._objects


async def test_what_a_tag_leads_to_stays(make: Make) -> None:
    clock = Clock()
    async with opened(make(POLICY, clock)) as storage:
        await put_blob(storage, "app", DATA)
        child = new_manifest(b"{}", DIGEST)
        index = new_manifest(b"[]", children=(child.stored.digest,))
        referrer = new_manifest(b"{ }", subject=index.stored.digest)
        await storage.put_manifest("app", child, [])
        await storage.put_manifest("app", index, ["t"])
        await storage.put_manifest("app", referrer, [])
        clock.now += 1000
        assert await storage.sweep() == Swept()
        assert await storage.sweep_orphans() == Swept()
        assert await storage.manifest("app", "t") == index.stored
        assert len(await stored(objects_of(storage))) == 4


async def test_what_nothing_leads_to_goes_step_by_step(make: Make) -> None:
    """First its names, then, when those who found it had time to read it, its bytes."""
    clock = Clock()
    async with opened(make(POLICY, clock)) as storage:
        await put_blob(storage, "app", DATA)
        manifest = new_manifest(b"{}", DIGEST)
        await storage.put_manifest("app", manifest, ["t"])
        await storage.delete_tag("app", "t")
        clock.now += 50
        assert await storage.sweep() == Swept()
        clock.now += 51
        found = await storage.manifest("app", manifest.stored.digest)
        assert found is not None
        assert (await storage.sweep()) == Swept(manifests=1, links=1, blobs=2)
        assert await storage.manifest("app", manifest.stored.digest) is None
        assert await storage.blob("app", DIGEST) is None
        assert (await storage.repositories(after="", limit=9)).names == ()
        assert len(await stored(objects_of(storage))) == 2
        clock.now += 11
        assert await storage.sweep() == Swept(objects=2, bytes=len(DATA) + 2)
        assert await stored(objects_of(storage)) == set()


async def test_untagged_manifests_stay_unless_told(make: Make) -> None:
    clock = Clock()
    async with opened(make(PATIENT, clock)) as storage:
        await put_blob(storage, "app", DATA)
        manifest = new_manifest(b"{}", DIGEST)
        await storage.put_manifest("app", manifest, [])
        clock.now += 1000
        assert await storage.sweep() == Swept()
        await storage.delete_manifest("app", manifest.stored.digest)
        assert (await storage.sweep()).blobs == 2


async def test_asking_for_a_blob_renews_its_lease(make: Make) -> None:
    """A client that was told of a blob will not push it: it must stay until the manifest comes."""
    clock = Clock()
    async with opened(make(POLICY, clock)) as storage:
        await put_blob(storage, "app", DATA)
        for _ in range(3):
            clock.now += 90
            assert await storage.blob("app", DIGEST) is not None
            assert await storage.sweep() == Swept()
        clock.now += 90
        assert await storage.mount_blob("other", DIGEST, "app") is not None
        clock.now += 90
        assert (await storage.sweep()).links == 1
        await storage.put_manifest("other", new_manifest(b"{}", DIGEST), ["t"])


async def test_a_blob_is_pushed_again_while_its_bytes_wait_for_their_end(make: Make) -> None:
    clock = Clock()
    async with opened(make(POLICY, clock)) as storage:
        await put_blob(storage, "app", DATA)
        clock.now += 101
        assert (await storage.sweep()).blobs == 1
        with pytest.raises(Refusal) as caught:
            await storage.put_manifest("app", new_manifest(b"{}", DIGEST), ["t"])
        assert caught.value.code is Code.MANIFEST_BLOB_UNKNOWN
        blob = await put_blob(storage, "app", DATA)
        await storage.put_manifest("app", new_manifest(b"{}", DIGEST), ["t"])
        clock.now += 11
        assert (await storage.sweep()).objects == 1
        assert await whole(storage, blob) == DATA


async def test_who_found_a_blob_reads_it_to_its_end(make: Make) -> None:
    clock = Clock()
    async with opened(make(POLICY, clock)) as storage:
        await put_blob(storage, "app", DATA)
        blob = await storage.blob("app", DIGEST)
        assert blob is not None
        clock.now += 101
        assert (await storage.sweep()).blobs == 1
        assert await whole(storage, blob) == DATA


async def test_the_same_bytes_are_stored_once(make: Make) -> None:
    async with opened(make()) as storage:
        for name in ("a", "b", "a"):
            await put_blob(storage, name, DATA)
        await storage.put_manifest("a", new_manifest(b"{}", DIGEST), ["t"])
        await storage.put_manifest("b", new_manifest(b"{}", DIGEST), ["t"])
        assert len(await stored(objects_of(storage))) == 2


async def test_a_lost_object_is_healed_by_pushing_it_again(make: Make) -> None:
    async with opened(make()) as storage:
        blob = await put_blob(storage, "app", DATA)
        await objects_of(storage).delete(blob.key)
        assert await whole(storage, await put_blob(storage, "app", DATA)) == DATA


async def test_a_session_that_nobody_continues_ends(make: Make) -> None:
    clock = Clock()
    async with opened(make(POLICY, clock)) as storage:
        upload = await storage.start_upload("app", "sha256")
        clock.now += 900
        assert (await storage.sweep()).uploads == 0
        async with storage.writing(upload) as writer:
            clock.now += 200
            assert (await storage.sweep()).uploads == 0
            await writer.write(DATA)
        assert (await storage.sweep()).uploads == 1
        with pytest.raises(Refusal):
            await storage.upload("app", upload.id)


async def test_what_a_dead_process_left_is_found(make: Make, tmp_path: Path) -> None:
    async with opened(make()) as storage:
        await put_blob(storage, "app", DATA)
        await objects_of(storage).put(f"{OBJECTS}aa/{'b' * 30}", b"stored, not committed")
        assert await storage.sweep_orphans() == Swept(objects=1, bytes=21)
        assert len(await stored(objects_of(storage))) == 1


async def test_what_arrives_while_orphans_are_sought_is_none(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its object is listed, and its row not yet committed."""
    async with opened(make()) as storage:
        listing, arrived = asyncio.Event(), asyncio.Event()
        whole_list, adopt = objects_of(storage).list, objects_of(storage).adopt

        async def slow_list(prefix: str) -> AsyncIterator[tuple[str, int]]:
            listing.set()
            await arrived.wait()
            async for entry in whole_list(prefix):
                yield entry

        async def slow_adopt(path: Path, key: str) -> None:
            await listing.wait()
            await adopt(path, key)
            arrived.set()
            assert await sweeping == Swept()

        monkeypatch.setattr(objects_of(storage), "list", slow_list)
        monkeypatch.setattr(objects_of(storage), "adopt", slow_adopt)
        sweeping = asyncio.create_task(storage.sweep_orphans())
        blob = await put_blob(storage, "app", DATA)
        assert await whole(storage, blob) == DATA


async def test_a_lost_database_is_made_again_from_the_store(make: Make, tmp_path: Path) -> None:
    first = make()
    async with opened(first) as storage:
        await put_blob(storage, "app", DATA)
        child = new_manifest(CHILD, DIGEST)
        await storage.put_manifest("app", child, ["a"])
        await storage.put_manifest("gone", new_manifest(REFERRER, subject=DIGEST, kind=OCI_INDEX), ["b", "c"])
        assert await storage.save_records() == 2
        await storage.delete_tag("gone", "b")
        assert await storage.save_records() == 1
        assert await storage.save_records() == 0
    for name in ("meta.sqlite", "meta.sqlite-wal", "meta.sqlite-shm"):
        (tmp_path / "root" / name).unlink(missing_ok=True)
    async with opened(make()) as storage:
        assert await storage.manifest("app", "a") == child.stored
        blob = await storage.blob("app", DIGEST)
        assert blob is not None
        assert await whole(storage, blob) == DATA
        assert (await storage.tags("gone", after="", limit=9)).names == ("c",)
        assert [entry.digest for entry in await storage.referrers("gone", DIGEST)] == [Digest.of(REFERRER)]
        with pytest.raises(Refusal):
            await storage.unlink_blob("app", DIGEST)
        assert await storage.sweep_orphans() == Swept()


async def test_a_restoration_that_was_cut_off_begins_anew(make: Make, tmp_path: Path) -> None:
    async with opened(make()) as storage:
        await put_blob(storage, "app", DATA)
        await storage.put_manifest("app", new_manifest(CHILD, DIGEST), ["a"])
        await storage.save_records()
        await storage.delete_tag("app", "a")
    (tmp_path / "root/restoring").touch()
    async with opened(make()) as storage:
        assert await storage.manifest("app", "a") is not None
    assert not (tmp_path / "root/restoring").exists()
