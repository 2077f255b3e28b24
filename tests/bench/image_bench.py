"""Pull and unpack beside dockerd, from one registry, interleaved in one sitting.

    python -m tests.bench.image_bench [--rounds 5] [--socket PATH --registry HOST:PORT] [--dockerd PATH|none]

Two images of one layer each: a debootstrap tree (about 90 MB packed, 200 MB unpacked), and 20,000 files of 4 KB.
Every pull is of a layer that neither engine has seen (the archive's padding differs), so that nothing has to be
removed between rounds: ext4 creates slowly where much was just deleted (limits.md section 5).
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bulkhead.ctl.seed.images import Image, Tree, digest_of
from bulkhead.ctl.seed.push import push
from tests.bench.engine_bench import Engine, private_dockerd, report
from tests.bench.engine_client import EngineClient
from tests.support.images import debian_layout

SMALL_FILES = 20_000
SMALL_SIZE = 4096
BLOCK = 512


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
    """20,000 files that compress to about two thirds."""
    tree = Tree()
    for number in range(SMALL_FILES):
        if number % 10 == 0:
            tree.directory(f"d{number // 1000}/e{number // 10}")
        data = os.urandom(SMALL_SIZE * 5 // 8) + bytes(SMALL_SIZE * 3 // 8)
        tree.file(f"d{number // 1000}/e{number // 10}/file{number}", data)
    tar = tree.tar()
    return Layer("20,000 files", gzip.compress(tar, 6), hashlib.sha256(tar))


def measure(engines: list[Engine], registry: str, layers: list[Layer], rounds: int) -> None:
    """Each layer on each engine, turn by turn."""
    for number in range(1, rounds + 1):
        for layer in layers:
            push(registry, "bench", f"{layer.name[:3].strip(', ')}{number}", layer.image(number))
            for engine in engines:
                os.sync()
                seconds = _pull(engine, f"{registry}/bench", f"{layer.name[:3].strip(', ')}{number}")
                engine.record(f"pull+unpack, {layer.name} [s]", seconds)


def _pull(engine: Engine, name: str, tag: str) -> float:
    client = EngineClient(engine.socket)
    begun = time.perf_counter()
    status, body = client.call("POST", f"/images/create?fromImage={name}&tag={tag}")
    seconds = time.perf_counter() - begun
    if status != 200 or b"Downloaded newer image" not in body:
        raise RuntimeError(f"{engine.name}: {status} {body[-300:]!r}")
    return seconds


def _blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs" / digest.replace(":", "/")).read_bytes()


def _descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


@contextlib.contextmanager
def _bulkhead(socket: str | None, registry: str | None) -> Iterator[tuple[Engine, str]]:
    if socket and registry:
        yield Engine("bulkhead", Path(socket), set), registry
        return
    from tests.support.engine import private_engine

    with private_engine() as engine:
        engine.start()
        yield Engine("bulkhead", engine.instance.docker_socket, set), engine.instance.registry


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--socket", help="docker.sock of a running Bulkhead; needs --registry")
    parser.add_argument("--registry", help="host:port of the registry to push to and pull from")
    parser.add_argument("--dockerd", help="socket of a running dockerd, or none")
    options = parser.parse_args()
    layers = [debian(), small_files()]
    with _bulkhead(options.socket, options.registry) as (ours, registry), private_dockerd(options.dockerd) as theirs:
        engines = [ours, *([theirs] if theirs else [])]
        measure(engines, registry, layers, options.rounds)
        sys.stdout.write(report(engines) + "\n")
        load = os.getloadavg()[0]
        sys.stdout.write(f"\n{os.cpu_count()} cores, load {load:.1f}, {time.strftime('%Y-%m-%d %H:%M')}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
