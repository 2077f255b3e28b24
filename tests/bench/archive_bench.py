"""What goes in and out as one tar: cp, commit, export, import, save and load, turn by turn.

Two trees: 100 MB that compress to half, and 20,000 files of 4 KB. Each round has bytes that no engine has seen, and
nothing is removed between rounds but containers: ext4 creates slowly where much was just deleted.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bulkhead.ctl.seed.images import Tree
from tests.bench.engines import IMAGE, Engine
from tests.bench.image_bench import SMALL_FILES, small_tree
from tests.bench.sitting import Bench, Sitting

FILES, FILE = 100, 1_000_000


def archives(sitting: Sitting) -> None:
    """Each way in and out, for both trees."""
    trees = {f"{FILES * FILE // 1_000_000} MB": large_tree().tar(), f"{SMALL_FILES:,} files": small_tree().tar()}
    for number in sitting.rounds(12, 1):
        for name, tar in trees.items():
            for engine in sitting.engines:
                _ways(sitting, engine, name, _unseen(tar, number), f"{name[:3].strip(', ')}{number}")


def large_tree() -> Tree:
    """Files of a megabyte, half of it random."""
    tree = Tree()
    for number in range(FILES):
        tree.file(f"large{number}", os.urandom(FILE // 2) + bytes(FILE // 2))
    return tree


def _ways(sitting: Sitting, engine: Engine, name: str, tar: bytes, tag: str) -> None:
    with _container(engine) as container:
        with _timed(sitting, engine, f"cp in, {name}"):
            _sent(engine, "PUT", f"/containers/{container}/archive?path=/", tar)
        with _timed(sitting, engine, f"commit, {name}"):
            _sent(engine, "POST", f"/commit?container={container}&repo=committed&tag={tag}", b"")
        with _timed(sitting, engine, f"export, {name}"):
            _sent(engine, "GET", f"/containers/{container}/export")
    with _timed(sitting, engine, f"import, {name}"):
        _sent(engine, "POST", f"/images/create?fromSrc=-&repo=imported&tag={tag}", tar)
    with _timed(sitting, engine, f"save, {name}"):
        _sent(engine, "GET", f"/images/imported:{tag}/get")
    archive = _archive(tar + bytes(512), f"loaded:{tag}")
    with _timed(sitting, engine, f"load, {name}"):
        _sent(engine, "POST", "/images/load?quiet=1", archive)


@contextmanager
def _container(engine: Engine) -> Iterator[str]:
    client = engine.client()
    container = client.create(IMAGE, ["true"], NetworkMode="none")
    try:
        yield container
    finally:
        client.remove(container)


@contextmanager
def _timed(sitting: Sitting, engine: Engine, row: str) -> Iterator[None]:
    os.sync()
    with sitting.cpu(f"{row}, CPU of the engine [ms]", engine):
        begun = time.perf_counter()
        yield
        sitting.record(f"{row} [s]", engine.name, time.perf_counter() - begun)


def _sent(engine: Engine, method: str, route: str, body: bytes = b"") -> None:
    """One request over a connection of its own; the answer is only looked at for whether it is good."""
    kind = "application/x-tar" if body else "application/json"
    head = f"{method} /v1.41{route} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\nContent-Type: {kind}\r\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.connect(str(engine.socket))
        peer.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        peer.sendall(body)
        begin, end = _begin_and_end(peer)
    if not begin.startswith(b"HTTP/1.1 20") or b"error" in end:
        raise RuntimeError(f"{engine.name}: {method} {route}: {begin[:200]!r} ... {end!r}")


def _begin_and_end(peer: socket.socket) -> tuple[bytes, bytes]:
    buffer, begin, end = bytearray(1 << 20), b"", b""
    with memoryview(buffer) as view:
        while count := peer.recv_into(buffer):
            begin = begin or bytes(view[:count])
            end = bytes(view[max(0, count - 300) : count])
    return begin, end


def _unseen(tar: bytes, number: int) -> bytes:
    """The same tree and one file that makes it another."""
    return Tree().file("round", str(number).encode()).tar()[:1024] + tar


def _archive(layer: bytes, name: str) -> bytes:
    """What `docker save` writes: a layer as it is, the config, and which is which."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    packed = json.dumps(config).encode()
    own = f"{hashlib.sha256(packed).hexdigest()}.json"
    manifest = [{"Config": own, "RepoTags": [name], "Layers": ["layer/layer.tar"]}]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, data in (("layer/layer.tar", layer), (own, packed), ("manifest.json", json.dumps(manifest).encode())):
            member = tarfile.TarInfo(path)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


BENCHES = (Bench(name="archive", about="cp, commit, export, import, save, load", run=archives),)
