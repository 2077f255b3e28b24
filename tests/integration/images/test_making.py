"""Images made here: whole or not at all, and as good as pulled ones."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bulkhead.content.trees import Tree as ContainerTree
from bulkhead.ctl.seed.images import Tree, image_of
from bulkhead.ctl.seed.push import push
from bulkhead.errors import BulkheadError, DataLoss, InvalidArgument, Unavailable
from bulkhead.manager.filesystems import ENGINE_MADE
from bulkhead.manager.images.committing import Commit
from bulkhead.manager.images.importing import ImportRequest
from bulkhead.manager.images.progress import Feed
from bulkhead.model.digest import Digest
from bulkhead.model.image import ImageConfig
from bulkhead.model.reference import parse_reference
from tests.integration.content.tars import Member, archive, symlink
from tests.integration.images.conftest import Engine, Open, Registry
from tests.support.unheard import none_unheard

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="layers are unpacked with their owners: needs root"),
]
ONE_FILE = archive(Member(name=b"file", data=b"x"))


async def import_(engine: Engine, data: bytes, **more: object) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield data

    await engine.images.importer.run(ImportRequest(source="-", **more), pieces(), Feed())  # type: ignore[arg-type]


def write(path: Path, text: str) -> None:
    path.write_text(text)


def nothing(engine: Engine) -> bool:
    partial = list((engine.instance.data / "content/ingest").iterdir())
    return not (engine.images.store.select({}) or engine.layers or engine.blobs or partial)


async def test_an_imported_image_outlives_the_manager(open_engine: Open) -> None:
    name = parse_reference("made:1")
    async with open_engine() as engine:
        await import_(engine, ONE_FILE, name=name, message="why")
        assert engine.events.actions == ["tag", "import"]
        before = engine.images.store.inspect("made:1")
    async with open_engine() as engine:
        after = engine.images.store.inspect("made:1")
        assert (after.record, after.repo_tags) == (before.record, ("made:1",))
        assert len(engine.blobs) == 3 and len(engine.layers) == 1
        await engine.images.store.remove("made:1")
        assert nothing(engine)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"not a tar at all" * 64, DataLoss),
        (ONE_FILE[:700], DataLoss),
        (archive(Member(name=b"../out", data=b"x")), InvalidArgument),
        (archive(Member(name=b"/abs", data=b"x")), InvalidArgument),
        (archive(symlink(b"way", b"/etc"), Member(name=b"way/in", data=b"x")), InvalidArgument),
        (b"\x1f\x8b\x08\x00garbage", DataLoss),
    ],
    ids=["no tar", "torn", "climbs out", "absolute", "through a link", "damaged gzip"],
)
async def test_a_refused_import_leaves_nothing(engine: Engine, data: bytes, error: type[BulkheadError]) -> None:
    with pytest.raises(error):
        await import_(engine, data, name=parse_reference("bad:1"))
    assert nothing(engine)


async def test_an_import_is_refused_while_its_client_still_sends(engine: Engine) -> None:
    """It is unpacked as it comes: nobody waits for the end of what cannot be used."""

    async def endless() -> AsyncIterator[bytes]:
        yield archive(Member(name=b"../out", data=b"x"))
        await asyncio.Event().wait()

    async with none_unheard():
        with pytest.raises(InvalidArgument, match="climbs out"):
            await engine.images.importer.run(ImportRequest(source="-"), endless(), Feed())
    assert nothing(engine)


async def test_an_import_whose_client_fails_leaves_nothing(engine: Engine) -> None:
    """An archive that could be whole is none when its client says it is not."""

    async def breaks_off() -> AsyncIterator[bytes]:
        yield ONE_FILE
        raise Unavailable("the client went away")

    async with none_unheard():
        with pytest.raises(Unavailable, match="the client went away"):
            await engine.images.importer.run(ImportRequest(source="-"), breaks_off(), Feed())
    assert nothing(engine)


async def test_a_layer_is_what_its_blob_unpacks_to(engine: Engine) -> None:
    """It was not unpacked from the blob, but a boot after power loss does that, and others pull it."""
    await import_(engine, ONE_FILE, name=parse_reference("made:1"))
    [layer] = engine.images.store.inspect("made:1").record.layers
    blob = engine.instance.data / "content/blobs/sha256" / layer.blob.encoded
    assert Digest.of(gzip.decompress(blob.read_bytes())) == layer.diff_id == Digest.of(ONE_FILE)


async def test_the_same_made_twice_is_one_layer(engine: Engine) -> None:
    for name in ("made:1", "made:2"):
        await import_(engine, ONE_FILE, name=parse_reference(name), message=name)
    assert len(engine.images.store.select({})) == 2 and len(engine.layers) == 1
    assert not list((engine.instance.data / "snapshots/ingest").iterdir())


async def test_a_bad_change_is_told_before_anything_is_read(engine: Engine) -> None:
    with pytest.raises(InvalidArgument, match="run is not a valid change command"):
        await import_(engine, ONE_FILE, changes=("RUN x",))
    assert nothing(engine)


async def test_an_import_that_is_given_up_leaves_nothing(engine: Engine) -> None:
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield ONE_FILE[:512]
        begun.set()
        await asyncio.Event().wait()
        yield b""

    async def given_up() -> None:
        working = asyncio.create_task(engine.images.importer.run(ImportRequest(source="-"), endless(), Feed()))
        await begun.wait()
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working

    async with none_unheard():
        await given_up()
    assert nothing(engine)


async def test_a_commit_stands_on_its_parent(engine: Engine, registry: Registry, tmp_path: Path) -> None:
    push(registry.host, "library/parent", "latest", image_of(Tree().file("base", b"b"), command=["/x"]))
    await engine.pull("parent")
    parent = engine.images.store.inspect("parent").record
    dirs = await engine.images.snapshots.prepare("c" * 64, str(parent.id))
    tree = ContainerTree(upper=dirs.upper, lower=dirs.lower, made=ENGINE_MADE)
    config = ImageConfig(cmd=("/new",), labels={"a": "b"})

    async def commit(comment: str) -> str:
        return await engine.images.committer.commit(
            Commit(image_id=str(parent.id), tree=tree, config=config, comment=comment, created_by="/x")
        )

    empty = engine.images.store.inspect(await commit("nothing new")).record
    assert [layer.chain_id for layer in empty.layers] == [layer.chain_id for layer in parent.layers]
    assert json.loads(empty.config_json)["history"][-1]["empty_layer"] is True
    write(Path(dirs.upper, "mine"), "m")
    made = engine.images.store.inspect(await commit("more")).record
    assert made.layers[:-1] == empty.layers and made.config.cmd == ("/new",) and made.config.labels == {"a": "b"}
    assert made.layers[-1].size == 1
    assert not list((engine.instance.data / "snapshots/ingest").iterdir())
    await engine.images.store.remove("parent")
    assert engine.layers == {layer.chain_id.encoded for layer in made.layers}, "the base stays for those on top of it"
    for image in (empty, made):
        await engine.images.store.remove(str(image.id))
    await engine.images.snapshots.remove("c" * 64)
    assert nothing(engine)


async def test_what_a_container_calls_its_files_is_not_taken_for_a_packed_archive(
    engine: Engine, registry: Registry
) -> None:
    """A tar begins with its first member's name, and this one begins as bzip2 does."""
    push(registry.host, "library/parent", "latest", image_of(Tree().file("base", b"b")))
    await engine.pull("parent")
    parent = engine.images.store.inspect("parent").record
    dirs = await engine.images.snapshots.prepare("c" * 64, str(parent.id))
    write(Path(dirs.upper, "BZh91AY"), "m")
    tree = ContainerTree(upper=dirs.upper, lower=dirs.lower, made=ENGINE_MADE)
    wanted = Commit(image_id=str(parent.id), tree=tree, config=ImageConfig())
    made = engine.images.store.inspect(await engine.images.committer.commit(wanted)).record
    assert made.layers[-1].size == 1
