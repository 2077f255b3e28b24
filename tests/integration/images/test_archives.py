"""Save and load: round trips, other tools' archives, hostile ones."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import subprocess
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bulkhead.ctl.seed.images import Tree, digest_of, image_of
from bulkhead.ctl.seed.push import push
from bulkhead.errors import BulkheadError, InvalidArgument, NotFound
from bulkhead.wire.gen.bulkhead.manager.v1 import LoadRequest, Progress, RemoveImageRequest, SaveRequest, TagRequest
from tests.integration.images.conftest import Engine, Open, Registry, collect

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="layers are unpacked with their owners: needs root"),
]


async def loaded(engine: Engine, data: bytes, *, quiet: bool = True, piece: int = 65536) -> list[Progress]:
    async def requests() -> AsyncIterator[LoadRequest]:
        yield LoadRequest(quiet=quiet)
        for start in range(0, len(data), piece):
            yield LoadRequest(data=data[start : start + piece])

    return await collect(engine.stub.load(requests()))


async def saved(engine: Engine, *refs: str) -> bytes:
    return b"".join([piece.data async for piece in engine.stub.save(SaveRequest(refs=list(refs)))])


async def pulled(engine: Engine, registry: Registry, name: str) -> str:
    image = image_of(Tree().file("base", name.encode()), Tree().file("top", os.urandom(200_000)), command=["/x"])
    push(registry.host, f"library/{name}", "latest", image)
    await engine.pull(name)
    return (await engine.images.store.resolve(name)).id


def text_of(lines: list[Progress]) -> str:
    return "".join(line.stream for line in lines)


async def nothing(engine: Engine) -> None:
    assert engine.images.store.select({}) == []
    assert engine.layers == set()
    assert engine.blobs == set()


async def test_saved_image_comes_back_the_same(open_engine: Open, registry: Registry, tmp_path: Path) -> None:
    """docker save | docker load onto another machine: same id, same names, same manifest."""
    async with open_engine() as engine:
        image_id = await pulled(engine, registry, "trip")
        await engine.stub.tag(TagRequest(ref="trip", target="team/trip:v2"))
        before = engine.images.store.inspect("trip").record
        archive = await saved(engine, "trip", "team/trip:v2")
        assert engine.events.actions[-1] == "save"
    async with open_engine(data=tmp_path / "other") as engine:
        lines = await loaded(engine, archive)
        assert text_of(lines) == "Loaded image: trip:latest\nLoaded image: team/trip:v2\n"
        assert (await engine.images.store.resolve("team/trip:v2")).id == image_id
        after = engine.images.store.inspect("trip").record
        assert (after.manifest, after.layers) == (before.manifest, before.layers)
        assert engine.events.actions == ["load"]
        dirs = await engine.images.snapshots.prepare("c1", image_id)
        assert len(dirs.lower) == 2 + 1  # the last one is below every image


async def test_image_saved_by_id_is_loaded_without_a_name(
    open_engine: Open, registry: Registry, tmp_path: Path
) -> None:
    async with open_engine() as engine:
        image_id = await pulled(engine, registry, "nameless")
        archive = await saved(engine, image_id[7:19])
    async with open_engine(data=tmp_path / "other") as engine:
        assert text_of(await loaded(engine, archive)) == f"Loaded image ID: {image_id}\n"


async def test_repository_saves_all_its_tags(engine: Engine, registry: Registry) -> None:
    await pulled(engine, registry, "tags")
    await engine.stub.tag(TagRequest(ref="tags", target="tags:v2"))
    with tarfile.open(fileobj=io.BytesIO(await saved(engine, "tags"))) as tar:
        member = tar.extractfile("manifest.json")
        assert member is not None
        assert json.load(member)[0]["RepoTags"] == ["tags:latest", "tags:v2"]


async def test_loading_over_a_name_leaves_the_old_image_dangling(engine: Engine, registry: Registry) -> None:
    old = await pulled(engine, registry, "renamed")
    archive = await saved(engine, "renamed")
    await engine.stub.remove(RemoveImageRequest(ref="renamed"))
    await pulled(engine, registry, "renamed")
    newer = (await engine.images.store.resolve("renamed")).id
    assert newer != old
    assert f"renaming the old one with ID {newer} to empty string" in text_of(await loaded(engine, archive))
    assert (await engine.images.store.resolve("renamed")).id == old


async def test_skopeo_reads_what_we_save(engine: Engine, registry: Registry, tmp_path: Path) -> None:
    """Both faces of the tar: Docker's and OCI's."""
    await pulled(engine, registry, "read")
    path = tmp_path / "saved.tar"
    path.write_bytes(await saved(engine, "read"))
    await skopeo("copy", f"docker-archive:{path}", f"dir:{tmp_path}/docker")
    await skopeo("copy", f"oci-archive:{path}", f"dir:{tmp_path}/oci")
    wanted = str(engine.images.store.inspect("read").record.id)
    for face in ("docker", "oci"):
        manifest = json.loads((tmp_path / face / "manifest.json").read_text())
        assert manifest["config"]["digest"] == wanted, face


@pytest.mark.parametrize("face", ["docker-archive", "oci-archive"])
async def test_we_read_what_skopeo_writes(engine: Engine, registry: Registry, tmp_path: Path, face: str) -> None:
    image = image_of(Tree().file("a", b"a"), Tree().file("b", b"b"), command=["/x"])
    push(registry.host, "team/skopeo", "v1", image)
    path = tmp_path / "image.tar"
    source = f"docker://{registry.host}/team/skopeo:v1"
    name = "example.com/team/skopeo:v1" if face == "docker-archive" else "v1"
    await skopeo("copy", "--src-tls-verify=false", source, f"{face}:{path}:{name}")
    lines = await loaded(engine, path.read_bytes())
    (named,) = engine.images.store.select({})
    assert len(named.record.layers) == 2
    if face == "docker-archive":
        assert text_of(lines) == "Loaded image: example.com/team/skopeo:v1\n"


async def test_compressed_archive_is_loaded(engine: Engine, registry: Registry) -> None:
    image_id = await pulled(engine, registry, "packed")
    archive = gzip.compress(await saved(engine, "packed"), 1)
    await engine.stub.remove(RemoveImageRequest(ref="packed"))
    await loaded(engine, archive, piece=1000)
    assert (await engine.images.store.resolve("packed")).id == image_id


async def test_unknown_names_cannot_be_saved(engine: Engine) -> None:
    for ref in ("nope", "nope:v1", "f" * 12):
        with pytest.raises(NotFound, match="No such image: "):
            await saved(engine, ref)
    with pytest.raises(InvalidArgument):
        await saved(engine)


@pytest.mark.parametrize("cut", [0, 1, 511, 512, 5000, 100_000])
async def test_truncated_archives_leave_nothing(
    open_engine: Open, registry: Registry, tmp_path: Path, cut: int
) -> None:
    async with open_engine() as engine:
        await pulled(engine, registry, "truncated")
        archive = await saved(engine, "truncated")
    async with open_engine(data=tmp_path / "other") as engine:
        assert (await told(engine, archive[:cut])).startswith(("InvalidArgument", "DataLoss"))
        await nothing(engine)


async def test_archive_with_a_layer_that_climbs_out_leaves_nothing(engine: Engine, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    layer = tar_of({f"../../../../../../..{outside}": b"evil"})
    config = json.dumps(
        {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]}}
    ).encode()
    manifest = json.dumps([{"Config": "c.json", "RepoTags": ["evil:latest"], "Layers": ["l/layer.tar"]}]).encode()
    lines_or_error = await told(engine, tar_of({"c.json": config, "l/layer.tar": layer, "manifest.json": manifest}))
    assert "InvalidArgument" in lines_or_error
    await nothing(engine)
    assert not await asyncio.to_thread(outside.exists)


async def told(engine: Engine, archive: bytes) -> str:
    try:
        lines = await loaded(engine, archive)
    except BulkheadError as error:
        return f"{type(error).__name__}: {error}"
    return f"{lines[-1].error_kind}: {lines[-1].error}"


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


async def skopeo(*arguments: str) -> None:
    def run() -> None:
        done = subprocess.run(["skopeo", *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr

    await asyncio.to_thread(run)
