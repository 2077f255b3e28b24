"""Pulls that fail: the right error, nothing half-done, nothing lost that the next pull can use."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bulkhead.ctl.seed.images import LAYER_TYPE, Image, Tree, digest_of, image_of
from bulkhead.errors import InvalidArgument, NotFound, Unavailable
from bulkhead.wire.gen.bulkhead.manager.v1 import Progress, PullRequest
from tests.integration.images.conftest import Engine, Open, collect, statuses
from tests.support.fake_registry import FakeRegistry, rewritten, serving
from tests.support.ports import free_port

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="layers are unpacked with their owners: needs root"),
]
SIZE = 3 << 20


@pytest.fixture
async def fake() -> AsyncIterator[FakeRegistry]:
    async with serving() as registry:
        yield registry


def big_image() -> Image:
    """One layer that does not compress."""
    return image_of(Tree().file("big", os.urandom(SIZE)), command=["/x"])


def layers_of(image: Image) -> list[str]:
    return [layer["digest"] for layer in json.loads(image.manifest)["layers"]]


def error_of(lines: list[Progress]) -> str:
    assert lines[-1].error, [line.status for line in lines]
    return f"{lines[-1].error_kind}: {lines[-1].error}"


async def no_image(engine: Engine) -> None:
    """Nothing is named, and nothing unpacked is left."""
    assert engine.images.store.select({}) == []
    assert engine.layers == set()
    assert list((engine.instance.data / "snapshots" / "ingest").iterdir()) == []


async def test_cut_connection_is_resumed_where_it_broke(engine: Engine, fake: FakeRegistry) -> None:
    """painpoint 8: a pull that starts over never ends on a bad line."""
    image = big_image()
    fake.add(image)
    (layer,) = layers_of(image)
    fake.cuts[layer] = [SIZE // 2, SIZE // 4]
    lines = await engine.pull(f"{fake.host}/big")
    assert statuses(lines)[-1].startswith("Status: Downloaded newer image")
    starts = [int(request.partition("bytes=")[2].rstrip("-") or 0) for request in fake.requests if layer in request]
    assert starts[0] == 0 < starts[1] <= starts[2], starts


async def test_cancelled_pull_goes_on_after_restart(open_engine: Open, fake: FakeRegistry) -> None:
    """Ctrl-C, then a restart of the manager: what arrived is not asked for again."""
    image = big_image()
    fake.add(image)
    (layer,) = layers_of(image)
    fake.held[layer] = asyncio.Event()
    async with open_engine() as engine:
        pull = asyncio.create_task(engine.pull(f"{fake.host}/big"))
        await fake.started.wait()
        await has_partial(engine)
        pull.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pull
    del fake.held[layer]
    async with open_engine() as engine:
        await no_image(engine)
        await engine.pull(f"{fake.host}/big")
        assert "bytes=0-" not in fake.requests[-1]
        assert "bytes=" in fake.requests[-1]


async def has_partial(engine: Engine) -> None:
    """Wait until some of a blob has reached the disk."""
    partial = engine.instance.data / "content" / "partial"
    while not any(path.stat().st_size for path in partial.iterdir()):  # noqa: ASYNC110 - a file has no event
        await asyncio.sleep(0.01)


async def test_two_clients_share_one_pull(engine: Engine, fake: FakeRegistry) -> None:
    image = big_image()
    fake.add(image)
    (layer,) = layers_of(image)
    fake.held[layer] = asyncio.Event()
    first = asyncio.create_task(engine.pull(f"{fake.host}/big"))
    await fake.started.wait()
    second_lines = engine.stub.pull(PullRequest(reference=f"{fake.host}/big"))
    heard = await anext(second_lines)
    fake.held[layer].set()
    lines = [heard, *await collect(second_lines)]
    assert statuses(lines)[-1] == statuses(await first)[-1]
    assert fake.count(layer) == 1


async def test_one_client_leaving_does_not_end_the_others_pull(engine: Engine, fake: FakeRegistry) -> None:
    image = big_image()
    fake.add(image)
    (layer,) = layers_of(image)
    fake.held[layer] = asyncio.Event()
    first = asyncio.create_task(engine.pull(f"{fake.host}/big"))
    await fake.started.wait()
    second = engine.stub.pull(PullRequest(reference=f"{fake.host}/big"))
    await anext(second)
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    fake.held[layer].set()
    assert statuses(await collect(second))[-1].startswith("Status: Downloaded")


async def test_layer_with_wrong_bytes_is_refused(engine: Engine, fake: FakeRegistry) -> None:
    image = big_image()
    fake.add(image)
    (layer,) = layers_of(image)
    fake.blobs[layer] = os.urandom(len(fake.blobs[layer]))
    assert error_of(await engine.pull(f"{fake.host}/big")).startswith(f"DataLoss: cannot store blob {layer}")
    await no_image(engine)
    assert layer.removeprefix("sha256:") not in engine.blobs


async def test_layer_that_ends_early_is_refused(engine: Engine, fake: FakeRegistry) -> None:
    """The registry believes that it has sent everything."""
    image = big_image()
    fake.add(image)
    (layer,) = layers_of(image)
    fake.blobs[layer] = fake.blobs[layer][:-100]
    lines = await engine.pull(f"{fake.host}/big")
    assert lines[-1].error
    await no_image(engine)


async def test_manifest_under_a_wrong_digest_is_refused(engine: Engine, fake: FakeRegistry) -> None:
    wanted = f"sha256:{'1' * 64}"
    fake.manifests[wanted] = (big_image().manifest, "application/vnd.oci.image.manifest.v1+json")
    with pytest.raises(Exception, match="digest"):
        await engine.pull(f"{fake.host}/big@{wanted}")
    await no_image(engine)


async def test_diff_id_that_lies_is_refused(engine: Engine, fake: FakeRegistry) -> None:
    """The blob's digest is right, but the config promises another layer."""
    image = image_of(Tree().file("honest", b"h"))
    fake.add(image)
    document = json.loads(image.manifest)
    config = json.loads(image.blobs[document["config"]["digest"]])
    config["rootfs"]["diff_ids"] = [f"sha256:{'2' * 64}"]
    body = json.dumps(config).encode()
    fake.blobs[digest_of(body)] = body
    fake.add_manifest(
        rewritten(image, config={**document["config"], "digest": digest_of(body), "size": len(body)}), "lie"
    )
    assert "DataLoss" in error_of(await engine.pull(f"{fake.host}/big:lie"))
    await no_image(engine)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"layers": []}, "its manifest has 0 layers, its config 1"),
        ({"layers": None}, ""),
        ({"manifests": []}, "both an index and a manifest"),
        ({"schemaVersion": 1}, "schema version 1"),
        ({"config": None}, ""),
        ({"mediaType": "text/plain"}, ""),
    ],
)
async def test_manifests_that_are_none_are_refused(
    engine: Engine, fake: FakeRegistry, changes: dict[str, object], text: str
) -> None:
    image = image_of(Tree().file("x", b"x"))
    fake.add(image)
    fake.add_manifest(rewritten(image, **changes), "odd")
    assert text in await refused(engine, f"{fake.host}/x:odd")
    await no_image(engine)


@pytest.mark.parametrize(
    "config",
    [b"{", b"[]", b"null", b'{"rootfs":{"type":"layers","diff_ids":{}}}', b"[" * 100_000, b'{"config":{"Env":[1]}}'],
)
async def test_configs_that_are_none_are_refused(engine: Engine, fake: FakeRegistry, config: bytes) -> None:
    image = image_of(Tree().file("x", b"x"))
    fake.add(image)
    fake.blobs[digest_of(config)] = config
    descriptor = {**json.loads(image.manifest)["config"], "digest": digest_of(config), "size": len(config)}
    fake.add_manifest(rewritten(image, config=descriptor), "odd")
    assert "InvalidArgument" in await refused(engine, f"{fake.host}/x:odd")
    await no_image(engine)


async def refused(engine: Engine, reference: str) -> str:
    """How a pull is refused, whether before its first line or after."""
    try:
        return error_of(await engine.pull(reference))
    except InvalidArgument as error:
        return f"InvalidArgument: {error}"


async def test_layer_that_climbs_out_writes_nothing(engine: Engine, fake: FakeRegistry, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(f"../../../../../../../../..{outside}")
        entry.size = 4
        tar.addfile(entry, io.BytesIO(b"evil"))
    image = of_tar(buffer.getvalue())
    fake.add(image)
    assert "InvalidArgument" in error_of(await engine.pull(f"{fake.host}/evil"))
    await no_image(engine)
    assert not is_there(outside)


def is_there(path: Path) -> bool:
    return path.exists()


def of_tar(tar: bytes) -> Image:
    """An image whose one layer is any tar at all."""
    image = image_of(Tree())
    document = json.loads(image.manifest)
    config = json.loads(image.blobs[document["config"]["digest"]])
    config["rootfs"]["diff_ids"] = [digest_of(tar)]
    body, layer = json.dumps(config).encode(), gzip.compress(tar, mtime=0)
    document["config"] |= {"digest": digest_of(body), "size": len(body)}
    document["layers"] = [{"mediaType": LAYER_TYPE, "digest": digest_of(layer), "size": len(layer)}]
    return Image(blobs={digest_of(body): body, digest_of(layer): layer}, manifest=json.dumps(document).encode())


async def test_one_bad_layer_among_good_ones_leaves_none_unpacked(engine: Engine, fake: FakeRegistry) -> None:
    image = image_of(Tree().file("a", b"a"), Tree().file("b", b"b"), Tree().file("c", b"c"))
    fake.add(image)
    del fake.blobs[layers_of(image)[2]]
    assert "NotFound" in error_of(await engine.pull(f"{fake.host}/x"))
    await no_image(engine)


async def test_image_too_large_for_the_disk_is_refused_before_a_byte_is_fetched(
    engine: Engine, fake: FakeRegistry
) -> None:
    image = image_of(Tree().file("x", b"x"))
    fake.add(image)
    layer = json.loads(image.manifest)["layers"][0]
    fake.add_manifest(rewritten(image, layers=[{**layer, "size": 1 << 49}]), "huge")
    assert "ResourceExhausted: cannot pull" in error_of(await engine.pull(f"{fake.host}/x:huge"))
    assert fake.count(layer["digest"]) == 0
    await no_image(engine)


async def test_image_of_another_platform_is_refused_when_asked_for(engine: Engine, fake: FakeRegistry) -> None:
    fake.add(image_of(Tree().file("x", b"x")))
    lines = await engine.pull(f"{fake.host}/x", platform="linux/s390x")
    assert "does not match the specified platform: wanted linux/s390x" in error_of(lines)


async def test_index_gives_the_image_for_this_machine(engine: Engine, fake: FakeRegistry) -> None:
    image = image_of(Tree().file("x", b"x"))
    fake.add(image, "single")
    entries = [
        {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest,
            "size": len(image.manifest),
            "platform": {"os": "linux", "architecture": architecture},
        }
        for architecture, digest in (("arm64", f"sha256:{'3' * 64}"), ("amd64", image.manifest_digest))
    ]
    index_type = "application/vnd.oci.image.index.v1+json"
    index = json.dumps({"schemaVersion": 2, "mediaType": index_type, "manifests": entries}).encode()
    digest = fake.add_manifest(index, "multi", index_type)
    await engine.pull(f"{fake.host}/x:multi")
    (named,) = engine.images.store.select({})
    assert named.repo_digests == (f"{fake.host}/x@{digest}",), "known by the digest that the tag has"
    assert str(named.record.manifest) == image.manifest_digest
    with pytest.raises(NotFound, match="no matching manifest"):
        await engine.pull(f"{fake.host}/x:multi", platform="linux/riscv64")


async def test_dead_mirror_falls_through_and_both_are_named(open_engine: Open, fake: FakeRegistry) -> None:
    """docker.io is not reachable here: the error must say what was tried."""
    dead = f"127.0.0.1:{free_port()}"
    async with open_engine(mirrors=[dead, fake.host]) as engine:
        fake.add(image_of(Tree().file("x", b"x")))
        assert statuses(await engine.pull("x"))[-1] == "Status: Downloaded newer image for x:latest"
        with pytest.raises(Unavailable) as told:
            await engine.pull("y:absent")
        assert dead in str(told.value)
        assert fake.host in str(told.value)
        assert "docker.io" in str(told.value)


async def test_mirror_that_dies_midway_leaves_the_rest_to_the_next(open_engine: Open, fake: FakeRegistry) -> None:
    image = image_of(Tree().file("a", b"a"), Tree().file("b", b"b"))
    async with serving() as broken:
        broken.add(image)
        del broken.blobs[layers_of(image)[1]]
        fake.add(image)
        async with open_engine(mirrors=[broken.host, fake.host]) as engine:
            await engine.pull("x")
            assert fake.count(layers_of(image)[1]) == 1
            assert fake.count(layers_of(image)[0]) == 0


@pytest.mark.parametrize(
    ("refusal", "error", "text"),
    [
        ((401, "DENIED", "requested access to the resource is denied"), NotFound, "pull access denied for"),
        ((404, "MANIFEST_UNKNOWN", "manifest unknown"), NotFound, "not found: manifest unknown: manifest unknown"),
    ],
)
async def test_refusals_have_dockers_texts(
    engine: Engine, fake: FakeRegistry, refusal: tuple[int, str, str], error: type[Exception], text: str
) -> None:
    fake.manifests.clear()
    fake.refusal = refusal
    with pytest.raises(error, match=text):
        await engine.pull(f"{fake.host}/private")


async def test_malformed_names_are_refused(engine: Engine) -> None:
    for name, text in (("Busybox", "must be lowercase"), ("a b", "invalid reference format"), ("x:", "invalid")):
        with pytest.raises(InvalidArgument, match=text):
            await engine.pull(name)


async def test_images_that_share_a_layer_are_pulled_side_by_side(engine: Engine, fake: FakeRegistry) -> None:
    """The shared layer is fetched once and unpacked once; one pull's failure takes nothing from the other."""
    shared = os.urandom(300_000)
    good, bad = (image_of(Tree().file("shared", shared), Tree().file("own", name)) for name in (b"good", b"bad"))
    fake.add(good, "good")
    fake.add(bad, "bad")
    base, own = layers_of(good)
    fake.held[own] = asyncio.Event()
    del fake.blobs[layers_of(bad)[1]]
    pulling = asyncio.create_task(engine.pull(f"{fake.host}/x:good"))
    await fake.started.wait()
    assert "NotFound" in error_of(await engine.pull(f"{fake.host}/x:bad"))
    fake.held[own].set()
    assert statuses(await pulling)[-1].startswith("Status: Downloaded")
    assert fake.count(base) == 1
    assert len(engine.layers) == 2
    image = await engine.images.store.resolve(f"{fake.host}/x:good")
    assert {chain.removeprefix("sha256:") for chain in image.chain_ids} == engine.layers


async def test_a_rotten_blob_is_dropped_and_the_next_pull_works(engine: Engine, fake: FakeRegistry) -> None:
    """H14: flipped on our own disk before it was unpacked; not for ever in everybody's way."""
    image = big_image()
    fake.add(image)
    (layer,) = layers_of(image)
    blobs = engine.instance.data / "content" / "blobs" / "sha256"
    blob = blobs / layer.removeprefix("sha256:")
    await asyncio.to_thread(blob.write_bytes, fake.blobs[layer][:-100] + bytes(100))
    told = error_of(await engine.pull(f"{fake.host}/big"))
    assert "DataLoss" in told
    assert "pull again" in told
    await no_image(engine)
    assert statuses(await engine.pull(f"{fake.host}/big"))[-1].startswith("Status: Downloaded")
