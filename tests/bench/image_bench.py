"""Pull and unpack, commit and push, from and to one registry, turn by turn.

Two images of one layer each: a debootstrap tree (about 90 MB packed, 200 MB unpacked), and 20,000 files of 4 KB.
Every pull is of a layer that neither engine has seen (the archive's padding differs), so that nothing has to be
removed between rounds: ext4 creates slowly where much was just deleted.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from bulkhead.ctl.seed.images import Image, Tree, digest_of
from bulkhead.ctl.seed.push import push
from tests.bench.cli_bench import podman_command, podman_place
from tests.bench.engines import IMAGE, Engine
from tests.bench.sitting import Bench, Sitting
from tests.support.images import debian_layout

SMALL_FILES = 20_000
SMALL_SIZE = 4096
BLOCK = 512
COMMIT_MEGABYTES = 64


@dataclass(frozen=True)
class Layer:
    """A packed archive whose end can be told apart, round by round, without packing it again."""

    name: str
    packed: bytes
    plain: hashlib._Hash

    def image(self, number: int) -> Image:
        """An image of this layer that has not been there before."""
        padding = bytes(BLOCK * number)
        hasher = self.plain.copy()
        hasher.update(padding)
        blob = self.packed + gzip.compress(padding, 1, mtime=0)
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hasher.hexdigest()}"]},
        }
        packed_config = json.dumps(config).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", packed_config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar+gzip", blob)],
        }
        blobs = {digest_of(data): data for data in (packed_config, blob)}
        return Image(blobs=blobs, manifest=json.dumps(manifest).encode())


def debian() -> Layer:
    """The layer of the debootstrap image that other tests use too."""
    layout = debian_layout()
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(_blob(layout, index["manifests"][0]["digest"]))
    packed = _blob(layout, manifest["layers"][0]["digest"])
    return Layer("debian", packed, hashlib.sha256(gzip.decompress(packed)))


def small_files() -> Layer:
    """The small files, packed."""
    tar = small_tree().tar()
    return Layer("20,000 files", gzip.compress(tar, 6), hashlib.sha256(tar))


def small_tree() -> Tree:
    """20,000 files that compress to about two thirds."""
    tree = Tree()
    for number in range(SMALL_FILES):
        if number % 10 == 0:
            tree.directory(f"d{number // 1000}/e{number // 10}")
        data = os.urandom(SMALL_SIZE * 5 // 8) + bytes(SMALL_SIZE * 3 // 8)
        tree.file(f"d{number // 1000}/e{number // 10}/file{number}", data)
    return tree


def pulls(sitting: Sitting) -> None:
    """Each layer on each engine, turn by turn."""
    layers = [debian(), small_files()]
    registry = _registry(sitting)
    with podman_place() as place:
        for number in sitting.rounds(15, 1):
            for layer in layers:
                tag = f"{layer.name[:3].strip(', ')}{number}"
                push(registry, "bench", tag, layer.image(number + 1))
                _pulls(sitting, f"pull+unpack, {layer.name}", f"{registry}/bench", tag)
                if sitting.peers and (podman := podman_command(place)):
                    os.sync()
                    begun = time.perf_counter()
                    command = [*podman, "pull", "-q", "--tls-verify=false", f"{registry}/bench:{tag}"]
                    subprocess.run(command, check=True, capture_output=True)
                    sitting.record(f"pull+unpack, {layer.name} [s]", "podman", time.perf_counter() - begun)


def _pulls(sitting: Sitting, row: str, name: str, tag: str) -> None:
    for engine in sitting.engines:
        os.sync()
        with sitting.cpu(f"{row}, CPU of the engine [ms]", engine):
            sitting.record(f"{row} [s]", engine.name, _pull(engine, name, tag))


def commits(sitting: Sitting) -> None:
    """A container that has written half compressible 64 MB: commit, and push of the new image."""
    registry = _registry(sitting)
    for number in sitting.rounds(30, 2):
        for engine in sitting.engines:
            _commit_and_push(sitting, engine, registry, f"{engine.name}{number}")


def _commit_and_push(sitting: Sitting, engine: Engine, registry: str, tag: str) -> None:
    client = engine.client()
    half = COMMIT_MEGABYTES // 2
    script = f"head -c {half}m /dev/urandom >/random; head -c {half}m /dev/zero >/zero"
    container = client.create(IMAGE, ["sh", "-c", script], NetworkMode="none")
    try:
        client.start(container)
        client.wait(container)
        begun = time.perf_counter()
        client.json("POST", f"/commit?container={container}&repo={registry}/commits&tag={tag}", {})
        sitting.record(f"commit, {COMMIT_MEGABYTES} MB [s]", engine.name, time.perf_counter() - begun)
        begun = time.perf_counter()
        status, body = client.call("POST", f"/images/{registry}/commits/push?tag={tag}", login="e30=")
        if status != 200 or b"errorDetail" in body:
            raise RuntimeError(f"{engine.name}: {status} {body[-300:]!r}")
        sitting.record(f"push, {COMMIT_MEGABYTES} MB [s]", engine.name, time.perf_counter() - begun)
    finally:
        client.remove(container)


def _registry(sitting: Sitting) -> str:
    installation = sitting.engines[0].installation
    assert installation is not None
    return installation.instance.registry


def _pull(engine: Engine, name: str, tag: str) -> float:
    begun = time.perf_counter()
    status, body = engine.client().call("POST", f"/images/create?fromImage={name}&tag={tag}")
    seconds = time.perf_counter() - begun
    if status != 200 or b"Downloaded newer image" not in body:
        raise RuntimeError(f"{engine.name}: {status} {body[-300:]!r}")
    return seconds


def _blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs" / digest.replace(":", "/")).read_bytes()


def _descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


BENCHES = (
    Bench(name="pull", about="pull and unpack", run=pulls),
    Bench(name="commit", about="commit and push", run=commits),
)
