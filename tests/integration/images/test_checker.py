"""fsck: what is wrong is found and mended, what is right is left alone; and df tells what du sees."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from bulkhead.ctl.seed.images import Image, Tree, image_of
from bulkhead.ctl.seed.push import push
from bulkhead.manager.adapters import overlay
from bulkhead.wire.client import channel, stub
from bulkhead.wire.gen.bulkhead.manager.v1 import CheckRequest, Finding, UpkeepStub
from tests.integration.images.conftest import Engine, Registry

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="layers are unpacked with their owners: needs root"),
]
BLOCK = 4096


def image(name: str) -> Image:
    base = Tree().directory("etc").file("etc/name", name.encode() * 3000)
    return image_of(base, Tree().file("upper", name.encode()), command=["/x"])


@pytest.fixture
async def pulled(engine: Engine, registry: Registry) -> Engine:
    push(registry.host, "library/checked", "latest", image("checked"))
    await engine.pull("checked")
    return engine


async def check(engine: Engine, *, repair: bool = False) -> list[Finding]:
    over = channel(engine.instance.manager_socket)
    try:
        return [finding async for finding in stub(UpkeepStub, over, "manager").check(CheckRequest(repair=repair))]
    finally:
        over.close()


def problems(findings: list[Finding]) -> list[str]:
    return [finding.text for finding in findings if finding.problem]


def content(engine: Engine) -> Path:
    return engine.instance.data / "content" / "blobs" / "sha256"


def layers(engine: Engine) -> Path:
    return engine.instance.data / "snapshots" / "layers"


async def mended(engine: Engine, text: str) -> None:
    """Found, found again by a check that repairs, and gone."""
    [found] = problems(await check(engine))
    assert text in found
    [repaired] = [finding for finding in await check(engine, repair=True) if finding.problem]
    assert repaired.repaired, repaired.text
    assert problems(await check(engine)) == []


def spoil(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-1] + (bytes([data[-1] ^ 1]) if how == "flipped" else b""))


async def test_what_is_right_is_left_alone(pulled: Engine) -> None:
    before = pulled.blobs, pulled.layers
    assert problems(await check(pulled, repair=True)) == []
    assert (pulled.blobs, pulled.layers) == before


@pytest.mark.parametrize(
    ("which", "how"), [("config", "flipped"), ("manifest", "gone"), ("layer", "flipped"), ("layer", "cut")]
)
async def test_a_bad_blob_is_brought_again(pulled: Engine, which: str, how: str) -> None:
    record = pulled.images.store.inspect("checked").record
    digest = {"config": record.id, "manifest": record.manifest, "layer": record.layers[0].blob}[which]
    path = content(pulled) / digest.encoded
    spoil(path, how)
    await mended(pulled, f"blob {digest}")
    assert digest.encoded in pulled.blobs


async def test_a_layer_that_is_gone_is_unpacked_again(pulled: Engine) -> None:
    [base, *_] = pulled.images.store.inspect("checked").record.layers
    shutil.rmtree(layers(pulled) / base.chain_id.encoded)
    await mended(pulled, f"layer {base.chain_id}")
    assert base.chain_id.encoded in pulled.layers


@pytest.mark.parametrize("name", ["layers/" + "0" * 64, "ingest/0123"])
async def test_what_nobody_owns_is_found(pulled: Engine, name: str) -> None:
    (pulled.instance.data / "snapshots" / name / "fs").mkdir(parents=True)
    await mended(pulled, f"snapshots/{name}")


async def test_what_cannot_be_fetched_again_is_dropped_and_said(pulled: Engine, registry: Registry) -> None:
    """Never a blob that is not what its name says; the image goes on being listed, and its layers being used."""
    record = pulled.images.store.inspect("checked").record
    blob = record.layers[0].blob
    spoil(content(pulled) / blob.encoded, "flipped")
    registry.kill()
    try:
        [finding] = [finding for finding in await check(pulled, repair=True) if finding.problem]
    finally:
        registry.start()
    assert not finding.repaired
    assert "could not be fetched again" in finding.text
    assert blob.encoded not in pulled.blobs
    assert pulled.images.store.inspect("checked").record == record


async def test_df_tells_what_du_sees(pulled: Engine, registry: Registry) -> None:
    """Two images that share a layer: nothing counts twice, and nothing is left out."""
    base = Tree().directory("etc").file("etc/name", b"checked" * 3000)
    push(registry.host, "library/shares", "latest", image_of(base, Tree().file("own", os.urandom(100_000))))
    await pulled.pull("shares")
    told = pulled.images.store.disk_usage()
    found = [path.lstat() for top in (content(pulled).parent, layers(pulled)) for path in top.rglob("*")]
    used = sum(each.st_blocks * 512 for each in found)
    assert told <= used <= told + len(found) * BLOCK


async def test_images_that_go_by_themselves(pulled: Engine, registry: Registry) -> None:
    """Those in use and young ones stay, whatever the marks say; the oldest is the first to go."""
    push(registry.host, "library/younger", "latest", image("younger"))
    await pulled.pull("younger")
    store = pulled.images.store
    older, younger = (store.inspect(name).record for name in ("checked", "younger"))
    moment = store.inspect("younger").tagged_at
    assert [each.id for each in store.unused(2 * moment)] == [older.id, younger.id]
    assert store.unused(0) == []
    pulled.users[str(older.id)] = [("c" * 64, False)]
    assert [each.id for each in store.unused(2 * moment)] == [younger.id]
    assert await store.evict(younger) > 0
    assert [named.record.id for named in store.select({})] == [older.id]


async def test_a_writable_layer_without_a_container_is_found(pulled: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    image_id = str(pulled.images.store.inspect("checked").record.id)
    pulled.users[image_id] = [("c" * 64, False)]
    for container in ("c" * 64, "d" * 64):
        await pulled.images.snapshots.prepare(container, image_id)
    assert problems(await check(pulled)) == [], "it may be being created"
    monkeypatch.setattr(overlay, "_BEING_CREATED", -1.0)
    await mended(pulled, "snapshots/containers/" + "d" * 64)
