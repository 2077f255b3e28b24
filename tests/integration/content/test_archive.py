"""save and load: what we write others read, what others write we read, and hostile archives leave nothing."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from bulkhead.content import media_types
from bulkhead.content.archive import LoadedImage, SavedImage, read_archive, write_archive
from bulkhead.content.inflate import Limits
from bulkhead.content.manifests import Manifest, parse_manifest
from bulkhead.content.store import BlobStore
from bulkhead.errors import BulkheadError, DataLoss, InvalidArgument, NotFound
from bulkhead.model.digest import Digest
from bulkhead.model.reference import parse_reference
from tests.integration.content.peers import Image, image_of, wire
from tests.integration.content.tars import Member, archive, hard_link, symlink
from tests.support.unheard import none_unheard

LAYER = archive(Member(name=b"hello", data=b"world"))
NEVER = "0" * 64


async def pieces(data: bytes, step: int = 10_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), step):
        yield data[start : start + step]


async def load(store: BlobStore, data: bytes, limits: Limits | None = None) -> list[LoadedImage]:
    return await read_archive(pieces(data), store, limits=limits)


async def save(store: BlobStore, *images: SavedImage) -> bytes:
    written = io.BytesIO()

    async def send(data: bytes) -> None:
        written.write(data)

    await write_archive(send, store, images)
    return written.getvalue()


async def stored(store: BlobStore, image: Image, *names: str) -> SavedImage:
    for blob in (*image.blobs, image.manifest):
        await store.put(blob)
    manifest = parse_manifest(image.manifest)
    assert isinstance(manifest, Manifest)
    return SavedImage(manifest=manifest, names=tuple(parse_reference(name) for name in names))


def diff_of(layer: bytes) -> str:
    return f"sha256:{hashlib.sha256(layer).hexdigest()}"


def config_of(*layers: bytes) -> bytes:
    rootfs = {"type": "layers", "diff_ids": [diff_of(layer) for layer in layers]}
    return json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()


def tar_of(files: dict[str, bytes | Any], *more: Member) -> bytes:
    return archive(
        *(
            Member(name=name.encode(), data=data if isinstance(data, bytes) else json.dumps(data).encode())
            for name, data in files.items()
        ),
        *more,
    )


def docker_archive(*layers: bytes, tags: list[str] | None = None) -> dict[str, Any]:
    """The files of `docker save` before Docker 25."""
    config = config_of(*layers)
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    entry = {"Config": name, "RepoTags": tags, "Layers": [f"l{n}/layer.tar" for n in range(len(layers))]}
    return {
        name: config,
        **{f"l{number}/layer.tar": layer for number, layer in enumerate(layers)},
        **{f"l{number}/VERSION": b"1.0" for number in range(len(layers))},
        "manifest.json": [entry],
    }


def oci_layout(image: Image, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    entry = {**wire(media_types.OCI_MANIFEST, image.manifest), "annotations": annotations or {}}
    return {
        "oci-layout": {"imageLayoutVersion": "1.0.0"},
        **{f"blobs/sha256/{Digest.of(blob).encoded}": blob for blob in (*image.blobs, image.manifest)},
        "index.json": {"schemaVersion": 2, "manifests": [entry]},
    }


def everything(store: BlobStore) -> list[str]:
    return sorted(path.name for path in store.root.rglob("*") if path.is_file() and path.name != "lock")


@pytest.fixture
def other(tmp_path: Path) -> BlobStore:
    store = BlobStore(tmp_path / "other")
    store.open()
    return store


async def test_what_we_save_we_load(store: BlobStore, other: BlobStore) -> None:
    first = await stored(store, image_of(gzip.compress(LAYER)), "busybox:1", "localhost:5000/box:x")
    second = await stored(store, image_of(gzip.compress(LAYER), b"second"))
    data = await save(store, first, second)
    loaded = await load(other, data)
    assert [image.manifest for image in loaded] == [first.manifest, second.manifest]
    assert [[name.familiar() for name in image.names] for image in loaded] == [
        ["busybox:1", "localhost:5000/box:x"],
        [],
    ]
    assert everything(other) == everything(store)
    assert await save(other, first, second) == data, "the same images are the same archive"


async def test_an_archive_holds_a_shared_layer_once(store: BlobStore) -> None:
    shared = gzip.compress(LAYER)
    images = [await stored(store, image_of(shared, bytes([number]))) for number in range(3)]
    with tarfile.open(fileobj=io.BytesIO(await save(store, *images))) as tar:
        names = tar.getnames()
    assert len(names) == len(set(names))
    assert names.count(f"blobs/sha256/{hashlib.sha256(shared).hexdigest()}") == 1


async def test_saving_an_image_whose_blob_is_gone_is_an_error(store: BlobStore) -> None:
    image = await stored(store, image_of(b"layer"))
    await store.delete(Digest.of(b"layer"))
    with pytest.raises(NotFound):
        await save(store, image)


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
async def test_a_docker_archive_is_loaded(store: BlobStore, compress: Callable[[bytes], bytes]) -> None:
    files = docker_archive(LAYER, LAYER + bytes(512), tags=["box:v1", "other.example/box:v2"])
    [image] = await load(store, compress(tar_of(files)))
    assert [name.familiar() for name in image.names] == ["box:v1", "other.example/box:v2"]
    assert [str(digest) for digest in image.config.diff_ids] == [diff_of(LAYER), diff_of(LAYER + bytes(512))]
    assert {layer.media_type for layer in image.manifest.layers} == {media_types.OCI_LAYER}
    for descriptor in (image.manifest.config, *image.manifest.layers):
        assert store.size(descriptor.digest) == descriptor.size
    assert store.has(image.manifest.digest)


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
async def test_what_tar_pads_with_is_taken_from_its_sender(
    store: BlobStore, compress: Callable[[bytes], bytes]
) -> None:
    left = [bytes(1 << 16)] * 3
    archive = compress(tar_of(docker_archive(LAYER)) + bytes(1 << 16))

    async def sent() -> AsyncIterator[bytes]:
        yield archive
        while left:
            yield left.pop()

    await read_archive(sent(), store)
    assert not left


async def test_loading_twice_gives_the_same_image(store: BlobStore, other: BlobStore) -> None:
    data = tar_of(docker_archive(LAYER))
    assert (await load(store, data))[0].manifest == (await load(other, data))[0].manifest


async def test_compressed_layers_in_a_docker_archive_stay_compressed(store: BlobStore) -> None:
    files = docker_archive(LAYER)
    files["l0/layer.tar"] = gzip.compress(LAYER)
    [image] = await load(store, tar_of(files))
    assert image.manifest.layers[0].media_type == media_types.OCI_LAYER_GZIP


async def test_layers_that_are_links_to_layers(store: BlobStore) -> None:
    """Docker before 25 writes a layer that several images share once."""
    files = docker_archive(LAYER, LAYER)
    del files["l1/layer.tar"]
    [image] = await load(store, tar_of(files, symlink(b"l1/layer.tar", b"../l0/layer.tar")))
    assert image.manifest.layers[0].digest == image.manifest.layers[1].digest
    [image] = await load(store, tar_of(files, hard_link(b"l1/layer.tar", b"l0/layer.tar")))
    assert len(image.manifest.layers) == 2


@pytest.mark.parametrize(
    ("annotations", "names"),
    [
        ({}, []),
        ({"org.opencontainers.image.ref.name": "v1"}, []),
        ({"org.opencontainers.image.ref.name": "example.com/box:v1"}, ["example.com/box:v1"]),
        ({"io.containerd.image.name": "docker.io/library/box:v1"}, ["box:v1"]),
        (
            {"io.containerd.image.name": "docker.io/a/b:v1", "org.opencontainers.image.ref.name": "v1"},
            ["a/b:v1"],
        ),
    ],
)
async def test_an_oci_layout_keeps_its_digest(store: BlobStore, annotations: dict[str, str], names: list[str]) -> None:
    image = image_of(gzip.compress(LAYER))
    [loaded] = await load(store, tar_of(oci_layout(image, annotations)))
    assert loaded.manifest.digest == image.digest
    assert [name.familiar() for name in loaded.names] == names


async def test_an_index_in_a_layout_gives_the_image_for_this_machine(store: BlobStore) -> None:
    ours, theirs = image_of(b"amd64"), image_of(b"arm64")
    platform = {"os": "linux", "architecture": "amd64"}
    index = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_INDEX,
            "manifests": [
                {**wire(media_types.OCI_MANIFEST, theirs.manifest), "platform": platform | {"architecture": "arm64"}},
                {**wire(media_types.OCI_MANIFEST, ours.manifest), "platform": platform},
            ],
        }
    ).encode()
    files = oci_layout(ours)
    files[f"blobs/sha256/{Digest.of(index).encoded}"] = index
    files["index.json"] = {"schemaVersion": 2, "manifests": [wire(media_types.OCI_INDEX, index)]}
    [loaded] = await load(store, tar_of(files))
    assert loaded.manifest.digest == ours.digest


async def test_what_no_image_needs_is_not_kept(store: BlobStore) -> None:
    files = docker_archive(LAYER) | {"README": b"hello", "junk/deep": b"x" * 1000}
    [image] = await load(store, tar_of(files))
    assert len(everything(store)) == 3
    assert image.manifest.layers[0].digest == Digest.of(LAYER)


def broken(change: Callable[[dict[str, Any]], object], base: Callable[[], dict[str, Any]] | None = None) -> bytes:
    files = base() if base is not None else docker_archive(LAYER, tags=["box:v1"])
    change(files)
    return tar_of(files)


def entry(files: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = files["manifest.json"][0]
    return found


def layout() -> dict[str, Any]:
    return oci_layout(image_of(LAYER))


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "no tar": b"not a tar" * 1000,
    "nothing in it": archive(),
    "only junk": tar_of({"a": b"b"}),
    "name climbs": tar_of({"../../etc/bulkhead-test": b"x"}),
    "name absolute": tar_of({"/etc/bulkhead-test": b"x"}),
    "link climbs": tar_of(docker_archive(LAYER), symlink(b"l9", b"../../etc/passwd")),
    "link absolute": tar_of(docker_archive(LAYER), symlink(b"l9", b"/etc/passwd")),
    "device": tar_of(docker_archive(LAYER), Member(name=b"d", kind=b"3", major=1, minor=3)),
    "torn": tar_of(docker_archive(LAYER))[:2000],
    "manifest.json is no list": broken(lambda files: files.update({"manifest.json": {}})),
    "manifest.json is a bomb": broken(lambda files: files.update({"manifest.json": b"[" * 100_000})),
    "manifest.json is not JSON": broken(lambda files: files.update({"manifest.json": b"{"})),
    "an image is a number": broken(lambda files: files.update({"manifest.json": [7]})),
    "config is missing": broken(lambda files: entry(files).update(Config="none.json")),
    "config is a number": broken(lambda files: entry(files).update(Config=7)),
    "config climbs": broken(lambda files: entry(files).update(Config="../../../etc/passwd")),
    "config is no config": broken(lambda files: files.update({entry(files)["Config"]: {"a": 1}})),
    "a layer is missing": broken(lambda files: entry(files).update(Layers=["none"])),
    "a layer too few": broken(lambda files: entry(files).update(Layers=[])),
    "layers are a string": broken(lambda files: entry(files).update(Layers="l0/layer.tar")),
    "a layer has other bytes": broken(lambda files: files.update({"l0/layer.tar": b"x" * 1024})),
    "a tag is no tag": broken(lambda files: entry(files).update(RepoTags=["UPPER"])),
    "a tag is a number": broken(lambda files: entry(files).update(RepoTags=[7])),
    "too many layers": broken(lambda files: entry(files).update(Layers=["l0/layer.tar"] * 200)),
    "links in a circle": tar_of(
        {"manifest.json": [{"Config": "a", "RepoTags": [], "Layers": []}]}, symlink(b"a", b"b"), symlink(b"b", b"a")
    ),
    "index.json is not JSON": broken(lambda files: files.update({"index.json": b"{"}), layout),
    "index.json is a manifest": broken(
        lambda files: files.update({"index.json": json.loads(image_of(LAYER).manifest)}), layout
    ),
    "index.json is both": broken(lambda files: files["index.json"].update(layers=[]), layout),
    "a blob has other bytes": broken(lambda files: files.update({f"blobs/sha256/{NEVER}": b"x"}), layout),
    "a blob with a bad digest": broken(lambda files: files.update({"blobs/sha256/zz": b"x"}), layout),
    "the manifest is missing": broken(
        lambda files: files["index.json"]["manifests"][0].update(digest=f"sha256:{NEVER}"), layout
    ),
    "the size of the manifest's type lies": broken(
        lambda files: files["index.json"]["manifests"][0].update(mediaType=media_types.OCI_INDEX), layout
    ),
    "no platform of ours": broken(
        lambda files: files["index.json"]["manifests"][0].update(platform={"os": "plan9", "architecture": "mips"}),
        layout,
    ),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
async def test_a_hostile_archive_is_refused_and_leaves_nothing(store: BlobStore, data: bytes) -> None:
    with pytest.raises((InvalidArgument, DataLoss, NotFound)):
        await load(store, data)
    assert everything(store) == []


async def test_an_index_that_holds_itself_ends(store: BlobStore) -> None:
    """No digest can hold itself, but five levels are as bad: each opens the next."""
    image = image_of(LAYER)
    files = oci_layout(image)
    inner = wire(media_types.OCI_MANIFEST, image.manifest)
    for _ in range(7):
        body = json.dumps({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [inner]}).encode()
        files[f"blobs/sha256/{Digest.of(body).encoded}"] = body
        inner = wire(media_types.OCI_INDEX, body)
    files["index.json"] = {"schemaVersion": 2, "manifests": [inner]}
    with pytest.raises(InvalidArgument, match="nested deeper"):
        await load(store, tar_of(files))


async def test_limits_stop_bombs(store: BlobStore) -> None:
    bomb = gzip.compress(tar_of({"zeros": bytes(8 << 20)}))
    with pytest.raises(InvalidArgument, match="expands"):
        await load(store, bomb, Limits(size=1 << 20))
    many = tar_of({f"f{number}": b"" for number in range(20)})
    with pytest.raises(InvalidArgument, match="more than 10 members"):
        await load(store, many, Limits(entries=10))
    assert everything(store) == []


async def test_a_cancelled_load_leaves_nothing(store: BlobStore) -> None:
    asked = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield tar_of(docker_archive(LAYER))[:2000]
        asked.set()
        await asyncio.Event().wait()
        yield b""

    async def given_up() -> None:
        task = asyncio.create_task(read_archive(endless(), store))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async with none_unheard():
        await given_up()
    assert everything(store) == []


async def test_a_peer_that_fails_is_the_error(store: BlobStore) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield tar_of(docker_archive(LAYER))[:2000]
        raise ConnectionResetError("gone")

    with pytest.raises((ConnectionResetError, BulkheadError)):
        await read_archive(failing(), store)
    assert everything(store) == []


def skopeo(*arguments: str) -> str:
    if shutil.which("skopeo") is None:
        pytest.skip("no skopeo on this machine")
    return subprocess.run(["skopeo", *arguments], capture_output=True, check=True, text=True).stdout


@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive"])
async def test_skopeo_reads_what_we_save_and_we_read_what_skopeo_writes(
    store: BlobStore, other: BlobStore, tmp_path: Path, transport: str
) -> None:
    blob = gzip.compress(LAYER)
    config = config_of(LAYER)
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "config": wire(media_types.OCI_CONFIG, config),
            "layers": [wire(media_types.OCI_LAYER_GZIP, blob)],
        }
    ).encode()
    image = await stored(store, Image(config=config, layers=(blob,), manifest=manifest), "localhost/box:v1")
    ours, theirs = tmp_path / "ours.tar", tmp_path / "theirs.tar"
    ours.write_bytes(await save(store, image))
    name = ":localhost/box:v1" if transport == "docker-archive" else ""
    await asyncio.to_thread(skopeo, "copy", f"{transport}:{ours}{name}", f"{transport}:{theirs}:localhost/box:v1")
    [loaded] = await load(other, theirs.read_bytes())
    assert [name.familiar() for name in loaded.names] == ["localhost/box:v1"]
    assert [str(digest) for digest in loaded.config.diff_ids] == [diff_of(LAYER)]
