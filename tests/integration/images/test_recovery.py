"""Death at any instant, power loss, a full disk: never a name without its content, never a byte without an owner."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bulkhead.ctl.seed.images import Tree, image_of
from bulkhead.ctl.seed.push import push
from tests.integration.images.conftest import Engine, Open, Registry, statuses
from tests.support.eventually import eventually, until
from tests.support.fake_registry import FakeRegistry, serving

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="layers are unpacked with their owners: needs root"),
]
DISK = 16 << 20  # of which the records hold a third in reserve


def test_manager_killed_at_any_instant_of_a_pull(open_engine: Open, registry: Registry, tmp_path: Path) -> None:
    """The instants lie between the first request and the last record; each time the next pull goes on."""
    trees = [Tree().file(f"file{layer}", os.urandom(400_000)) for layer in range(4)]
    push(registry.host, "library/killed", "latest", image_of(*trees, command=["/x"]))
    for instant in range(20):
        killed = _pull_in_child(open_engine, "killed", after=0.03 * instant)
        # One that it was starting holds its locks until it is a program of its own, a moment after its death.
        until(lambda: all(map(_is_free, (tmp_path / "data/bulkhead.lock", tmp_path / "data/content/lock"))))
        asyncio.run(_check_consistent(open_engine, "killed"))
        if not killed:
            break
    asyncio.run(_pull_and_check(open_engine, "killed"))


def _is_free(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _pull_in_child(open_engine: Open, name: str, after: float) -> bool:
    """Pull in a process that is killed so many seconds after it has begun; whether it was still at it."""
    ready, begun = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready)
        with contextlib.suppress(BaseException):
            asyncio.run(_pull(open_engine, name, begun))
            os._exit(0)
        os._exit(1)
    os.close(begun)
    os.read(ready, 1)
    os.close(ready)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


async def _pull(open_engine: Open, name: str, begun: int) -> None:
    async with open_engine() as engine:
        os.write(begun, b"x")
        await engine.pull(name)


async def _check_consistent(open_engine: Open, name: str) -> None:
    async with open_engine() as engine:
        _assert_owned(engine)
        for named in engine.images.store.select({}):
            assert named.repo_tags == (f"{name}:latest",)
            assert {blob.encoded for blob in named.record.blobs} <= engine.blobs
            assert {layer.chain_id.encoded for layer in named.record.layers} == engine.layers


def _assert_owned(engine: Engine) -> None:
    """Every unpacked layer belongs to an image; nothing is half-unpacked."""
    chains = {layer.chain_id.encoded for named in engine.images.store.select({}) for layer in named.record.layers}
    assert engine.layers == chains
    assert list((engine.instance.data / "snapshots" / "ingest").iterdir()) == []


async def _pull_and_check(open_engine: Open, name: str) -> None:
    async with open_engine() as engine:
        await engine.pull(name)
        assert len(engine.layers) == 4


@pytest.mark.parametrize("harm", ["file gone", "layer gone", "size gone"])
async def test_layers_torn_by_power_loss_are_unpacked_again(open_engine: Open, registry: Registry, harm: str) -> None:
    """A pull does not wait for 200 MB to reach the disk, so a boot must be able to make them good."""
    push(registry.host, "library/torn", "latest", image_of(Tree().file("f", b"whole"), command=["/x"]))
    async with open_engine() as engine:
        await engine.pull("torn")
        image = await engine.images.store.resolve("torn")
    layer = engine.instance.data / "snapshots" / "layers" / image.chain_ids[0].removeprefix("sha256:")
    with contextlib.closing(sqlite3.connect(engine.instance.data / "bulkhead.db")) as records, records:
        records.execute("UPDATE layers SET unsynced_boot = 'an earlier boot'")
    _harm(layer, harm)
    async with open_engine() as engine:
        assert (layer / "fs" / "f").read_bytes() == b"whole"
        assert await engine.images.store.resolve("torn") == image


def _harm(layer: Path, harm: str) -> None:
    if harm == "layer gone":
        shutil.rmtree(layer)
    else:
        (layer / ("fs/f" if harm == "file gone" else "size")).unlink()


async def test_layers_are_known_to_be_on_disk_soon_after_a_pull(open_engine: Open, registry: Registry) -> None:
    push(registry.host, "library/synced", "latest", image_of(Tree().file("f", b"synced"), command=["/x"]))
    async with open_engine() as engine:
        await engine.pull("synced")
        async with asyncio.timeout(20):
            while _unsynced(engine):  # noqa: ASYNC110 - a row has no event
                await asyncio.sleep(0.01)


def _unsynced(engine: Engine) -> int:
    with contextlib.closing(sqlite3.connect(engine.instance.data / "bulkhead.db")) as records:
        count: int = records.execute("SELECT count(*) FROM layers WHERE unsynced_boot != ''").fetchone()[0]
        return count


async def test_what_no_record_owns_is_swept_at_boot(open_engine: Open, registry: Registry) -> None:
    push(registry.host, "library/owned", "latest", image_of(Tree().file("f", b"owned"), command=["/x"]))
    async with open_engine() as engine:
        await engine.pull("owned")
        image = await engine.images.store.resolve("owned")
        kept = await engine.images.snapshots.prepare("kept", image.id)
        gone = await engine.images.snapshots.prepare("gone", image.id)
        snapshots = engine.instance.data / "snapshots"
        _leave_behind(snapshots, engine.instance.data / "content")
    async with open_engine(containers=["kept"]) as engine:
        _assert_owned(engine)
        assert is_there(kept.upper)
        assert not is_there(gone.upper)
        assert "0" * 64 not in engine.blobs, "an old blob that no image needs"
        assert "1" * 64 in engine.blobs, "a young one, which an interrupted pull may need again"
        assert len(engine.blobs) == 3 + 1


def _leave_behind(snapshots: Path, content: Path) -> None:
    (snapshots / "ingest" / "half" / "fs").mkdir(parents=True)
    (snapshots / "layers" / ("9" * 64) / "fs").mkdir(parents=True)
    for digit in "01":
        (content / "blobs" / "sha256" / (digit * 64)).write_bytes(b"x")
    old = time.time() - 3 * 24 * 3600
    os.utime(content / "blobs" / "sha256" / ("0" * 64), (old, old))


def is_there(path: str) -> bool:
    return Path(path).exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own for the data directory."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "bh-test", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def free(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


async def test_layer_that_grows_beyond_the_disk_leaves_nothing(
    open_engine: Open, registry: Registry, small_disk: Path
) -> None:
    """Its blob is small, so that nothing could be seen in advance."""
    push(registry.host, "library/zeros", "latest", image_of(Tree().file("zeros", bytes(2 * DISK)), command=["/x"]))
    push(registry.host, "library/small", "latest", image_of(Tree().file("f", b"small"), command=["/x"]))
    async with open_engine(data=small_disk) as engine:
        before = free(small_disk)
        lines = await engine.pull("zeros")
        assert lines[-1].error_kind == "ResourceExhausted"
        assert "no space left" in lines[-1].error
        assert engine.images.store.select({}) == []
        assert engine.layers == set()
        assert engine.blobs == set()
        # Records may have grown, nothing else. What was unpacked is deleted in its own time.
        await eventually(lambda: free(small_disk) > before - (1 << 18))
        assert statuses(await engine.pull("small"))[-1].startswith("Status: Downloaded")


@pytest.fixture
async def fake() -> AsyncIterator[FakeRegistry]:
    async with serving() as registry:
        yield registry


async def test_disk_filled_by_another_during_a_download(
    open_engine: Open, fake: FakeRegistry, small_disk: Path
) -> None:
    image = image_of(Tree().file("f", os.urandom(DISK // 4)), command=["/x"])
    fake.add(image)
    layer = json.loads(image.manifest)["layers"][0]["digest"]
    fake.held[layer] = asyncio.Event()
    async with open_engine(data=small_disk) as engine:
        pull = asyncio.create_task(engine.pull(f"{fake.host}/full"))
        started = asyncio.create_task(fake.started.wait())
        await asyncio.wait([started, pull], return_when=asyncio.FIRST_COMPLETED)
        assert started.done(), pull.result()[-1]
        hog = small_disk / "hog"
        fill(hog)
        fake.held[layer].set()
        lines = await pull
        assert lines[-1].error_kind == "ResourceExhausted", lines[-1]
        assert engine.images.store.select({}) == []
        assert layer.removeprefix("sha256:") not in engine.blobs
        assert list((small_disk / "content" / "partial").iterdir()) == []
        hog.unlink()
        assert statuses(await engine.pull(f"{fake.host}/full"))[-1].startswith("Status: Downloaded")


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as hog:
        while True:
            hog.write(bytes(1 << 16))
