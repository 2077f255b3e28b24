"""The exam that every storage of the registry must pass: what ports.Storage promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from bulkhead.content.manifests import Descriptor
from bulkhead.errors import NotFound
from bulkhead.model.digest import Digest
from bulkhead.registry.adapters.storage import DurableStorage
from bulkhead.registry.errors import Code, Refusal
from bulkhead.registry.ports import Blob, NewManifest, Storage, StoredManifest
from tests.contract.registry.conftest import Make, opened

KIND = "application/vnd.oci.image.manifest.v1+json"
DATA = b"the bytes"
DIGEST = Digest.of(DATA)


@pytest.fixture
async def storage(make: Make) -> AsyncIterator[DurableStorage]:
    async with opened(make()) as storage:
        yield storage


async def whole(storage: Storage, blob: Blob) -> bytes:
    content = await storage.open_blob(blob)
    try:
        return b"".join([piece async for piece in content.pieces(0, blob.size)])
    finally:
        await content.close()


async def put_blob(storage: Storage, repository: str, data: bytes) -> Blob:
    upload = await storage.start_upload(repository, "sha256")
    async with storage.writing(upload) as writer:
        await writer.write(data)
        return await writer.finish(Digest.of(data))


def new_manifest(
    body: bytes,
    *blobs: Digest,
    children: tuple[Digest, ...] = (),
    subject: Digest | None = None,
    kind: str = KIND,
) -> NewManifest:
    digest = Digest.of(body)
    return NewManifest(
        stored=StoredManifest(digest=digest, media_type=kind, body=body),
        blobs=blobs,
        manifests=children,
        subject=subject,
        referrer=Descriptor(
            media_type=KIND, digest=digest, size=len(body), artifact_type="a/b", annotations={"k": "v"}
        ),
    )


async def test_a_finished_upload_is_a_blob_of_its_repository_alone(storage: Storage) -> None:
    blob = await put_blob(storage, "app", DATA)
    assert blob == Blob(digest=DIGEST, size=len(DATA)) == await storage.blob("app", DIGEST)
    assert await storage.blob("other", DIGEST) is None
    assert await whole(storage, blob) == DATA
    with pytest.raises(NotFound):
        await storage.open_blob(replace(blob, key="objects/no/thing"))


async def test_an_upload_grows_and_is_asked_how_far_it_is(storage: Storage) -> None:
    upload = await storage.start_upload("app", "sha256")
    for expected in (4, 9):
        async with storage.writing(upload) as writer:
            await writer.write(DATA[expected - (4 if expected == 4 else 5) : expected])
            assert writer.offset == expected
        assert (await storage.upload("app", upload.id)).offset == expected
    async with storage.writing(upload) as writer:
        assert (await writer.finish(DIGEST)).size == len(DATA)
    with pytest.raises(Refusal) as caught:
        await storage.upload("app", upload.id)
    assert caught.value.code is Code.BLOB_UPLOAD_UNKNOWN


async def test_a_failed_writer_still_counts_what_came(storage: Storage) -> None:
    upload = await storage.start_upload("app", "sha256")
    with pytest.raises(ConnectionResetError):
        async with storage.writing(upload) as writer:
            await writer.write(DATA[:5])
            raise ConnectionResetError
    assert (await storage.upload("app", upload.id)).offset == 5


async def test_wrong_bytes_end_the_upload(storage: Storage) -> None:
    upload = await storage.start_upload("app", "sha256")
    async with storage.writing(upload) as writer:
        await writer.write(DATA)
        with pytest.raises(Refusal) as caught:
            await writer.finish(Digest.of(b"other"))
    assert caught.value.code is Code.DIGEST_INVALID
    with pytest.raises(Refusal):
        await storage.upload("app", upload.id)
    assert await storage.blob("app", DIGEST) is None


async def test_the_newest_writer_owns_the_upload(storage: Storage) -> None:
    upload = await storage.start_upload("app", "sha256")
    async with storage.writing(upload) as old:
        await old.write(DATA[:4])
        async with storage.writing(upload) as new:
            start = new.offset
            await new.write(DATA[start:])
            assert (await new.finish(DIGEST)).size == len(DATA)
        with pytest.raises(Refusal) as caught:
            await old.write(b"x" * (2 << 20))
    assert caught.value.code in (Code.BLOB_UPLOAD_INVALID, Code.BLOB_UPLOAD_UNKNOWN)


async def test_a_cancelled_upload_is_unknown(storage: Storage) -> None:
    upload = await storage.start_upload("app", "sha256")
    await storage.cancel_upload(upload)
    with pytest.raises(Refusal):
        async with storage.writing(upload):
            pass


async def test_mounting_makes_a_blob_another_repositorys_too(storage: Storage) -> None:
    await put_blob(storage, "a", DATA)
    assert await storage.mount_blob("b", DIGEST, "none") is None
    assert await storage.mount_blob("b", Digest.of(b"none"), "") is None
    assert await storage.blob("b", DIGEST) is None
    assert await storage.mount_blob("b", DIGEST, "a") == await storage.blob("b", DIGEST)
    await storage.unlink_blob("a", DIGEST)
    assert await storage.blob("a", DIGEST) is None
    assert await storage.mount_blob("c", DIGEST, "") == await storage.blob("c", DIGEST)
    assert await storage.blob("b", DIGEST) is not None


async def test_a_manifest_is_found_by_digest_and_tags(storage: Storage) -> None:
    await put_blob(storage, "app", DATA)
    manifest = new_manifest(b"{}", DIGEST)
    await storage.put_manifest("app", manifest, ["a", "b"])
    for reference in (manifest.stored.digest, "a", "b"):
        assert await storage.manifest("app", reference) == manifest.stored
    assert await storage.manifest("app", "c") is None
    assert await storage.manifest("other", "a") is None


async def test_a_manifest_needs_all_that_it_names(storage: Storage) -> None:
    await put_blob(storage, "app", DATA)
    for broken in (new_manifest(b"{}", DIGEST, Digest.of(b"x")), new_manifest(b"{}", children=(Digest.of(b"x"),))):
        with pytest.raises(Refusal) as caught:
            await storage.put_manifest("app", broken, ["t"])
        assert caught.value.code is Code.MANIFEST_BLOB_UNKNOWN
        assert caught.value.detail == [{"digest": str(Digest.of(b"x"))}]
    assert await storage.manifest("app", "t") is None


async def test_a_blob_that_a_manifest_needs_stays(storage: Storage) -> None:
    await put_blob(storage, "app", DATA)
    manifest = new_manifest(b"{}", DIGEST)
    await storage.put_manifest("app", manifest, [])
    with pytest.raises(Refusal) as caught:
        await storage.unlink_blob("app", DIGEST)
    assert caught.value.code is Code.UNSUPPORTED
    await storage.delete_manifest("app", manifest.stored.digest)
    await storage.unlink_blob("app", DIGEST)
    with pytest.raises(Refusal):
        await storage.unlink_blob("app", DIGEST)


async def test_deleting_a_manifest_takes_tags_and_referrer(storage: Storage) -> None:
    subject = Digest.of(b"subject")
    manifest = new_manifest(b"{}", subject=subject)
    other = new_manifest(b"{ }", subject=subject)
    await storage.put_manifest("app", manifest, ["a", "b"])
    await storage.put_manifest("app", other, ["c"])
    assert {entry.digest for entry in await storage.referrers("app", subject)} == {
        manifest.stored.digest,
        other.stored.digest,
    }
    await storage.delete_manifest("app", manifest.stored.digest)
    assert [entry.digest for entry in await storage.referrers("app", subject)] == [other.stored.digest]
    assert (await storage.tags("app", after="", limit=10)).names == ("c",)
    with pytest.raises(Refusal):
        await storage.delete_manifest("app", manifest.stored.digest)
    await storage.delete_tag("app", "c")
    with pytest.raises(Refusal):
        await storage.delete_tag("app", "c")
    assert await storage.manifest("app", other.stored.digest) == other.stored


async def test_referrers_say_what_they_are(storage: Storage) -> None:
    manifest = new_manifest(b"{}", subject=DIGEST)
    await storage.put_manifest("app", manifest, [])
    assert await storage.referrers("app", DIGEST) == (manifest.referrer,)
    assert await storage.referrers("other", DIGEST) == ()


async def test_names_come_in_pages(storage: Storage) -> None:
    for name in ("b", "a", "c/d"):
        await storage.put_manifest(name, new_manifest(b"{}"), ["t3", "t1", "t2"])
    page = await storage.tags("a", after="", limit=2)
    assert (page.names, page.more) == (("t1", "t2"), True)
    page = await storage.tags("a", after="t2", limit=2)
    assert (page.names, page.more) == (("t3",), False)
    assert (await storage.repositories(after="", limit=10)).names == ("a", "b", "c/d")
    assert (await storage.repositories(after="a", limit=1)).names == ("b",)
    with pytest.raises(Refusal) as caught:
        await storage.tags("none", after="", limit=1)
    assert caught.value.code is Code.NAME_UNKNOWN


async def test_changes_side_by_side_all_happen(storage: Storage) -> None:
    bodies = [f'{{"n":{number}}}'.encode() for number in range(20)]
    await asyncio.gather(*(storage.put_manifest("app", new_manifest(body), [f"t{n}"]) for n, body in enumerate(bodies)))
    for number, body in enumerate(bodies):
        found = await storage.manifest("app", f"t{number}")
        assert found is not None
        assert found.body == body


async def test_what_was_answered_is_there_after_a_restart(make: Make) -> None:
    first = make()
    await first.open()
    await put_blob(first, "app", DATA)
    manifest = new_manifest(b"{}", DIGEST, subject=DIGEST)
    await first.put_manifest("app", manifest, ["t"])
    upload = await first.start_upload("app", "sha256")
    async with first.writing(upload) as writer:
        await writer.write(DATA[:3])
    await first.close()
    second = make()
    await second.open()
    assert await second.manifest("app", "t") == manifest.stored
    assert await second.blob("app", DIGEST) is not None
    assert await second.referrers("app", DIGEST) == (manifest.referrer,)
    assert (await second.upload("app", upload.id)).offset == 3
    await second.close()
