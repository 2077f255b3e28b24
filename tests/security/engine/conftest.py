"""Hostile images and processes against a real private engine: how to make and run them, and what may not change."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.client
import io
import json
import os
import secrets
import socket
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bulkhead.ctl.engine_client import Answer, unframe
from bulkhead.ctl.seed import busybox_tree, static_busybox
from bulkhead.ctl.seed.images import LAYER_TYPE, Image, Tree, digest_of, image_of
from bulkhead.errors import NotFound
from tests.support.engine import Engine
from tests.support.images import push_image
from tests.support.probe import probe

SETTINGS = ("/proc/sys/kernel/core_pattern", "/sys/kernel/uevent_helper", "/proc/sys/kernel/hostname")
APPLETS = "sh true false cat echo ls sleep id env ps mount umount touch mkdir grep head chmod ln rm pwd dd wc"


class Packed(Tree):
    """A layer written entry by entry, so that it can hold what no honest one does."""

    def __init__(self, *entries: tuple[tarfile.TarInfo, bytes]) -> None:
        super().__init__()
        self._packed = io.BytesIO()
        with tarfile.open(fileobj=self._packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for info, data in entries:
                tar.addfile(info, io.BytesIO(data))

    def tar(self) -> bytes:
        return self._packed.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, *, data: bytes = b"", **rest: Any) -> tuple[tarfile.TarInfo, bytes]:
    """One member; `rest` are attributes of TarInfo."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode = kind, len(data), 0o755
    for key, value in rest.items():
        setattr(info, key, value)
    return info, data


@dataclass(frozen=True, slots=True)
class Outcome:
    """`status` is the exit code, or that of the HTTP answer by which the engine refused; `text` what was said."""

    status: int
    text: str
    ran: bool


class Attack:
    """An engine and the images that are thrown at it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.image = "busybox"

    def pulled(self, *trees: Tree, **config: Any) -> Answer:
        """Push busybox and the probe with `trees` over them, pull it; it is the image of what runs from now on."""
        self.image = push_image(self.engine.instance.registry, f"attack/{secrets.token_hex(6)}", _image(trees, config))
        name, _, tag = self.image.rpartition(":")
        return self.engine.api("POST", f"/images/create?fromImage={name}&tag={tag}")

    def loaded(self, *trees: Tree, **config: Any) -> Answer:
        """The same by `docker load`, from an OCI layout in a tar."""
        self.image = f"loaded-{secrets.token_hex(6)}:latest"
        return post(self.engine, "/images/load?quiet=1", _layout(_image(trees, config), self.image))

    def create(self, *words: str, host: Mapping[str, Any] | None = None, **config: Any) -> Answer:
        own = {"NetworkMode": "none", **(host or {})}
        body = {"Image": self.image, "Cmd": list(words) or None, "HostConfig": own, **config}
        return self.engine.api("POST", "/containers/create", body)

    def start(self, *words: str, host: Mapping[str, Any] | None = None, **config: Any) -> str:
        """A running container's id."""
        made = self.create(*words, host=host, **config)
        assert made.status == 201, made.body
        started = self.engine.api("POST", f"/containers/{made.json['Id']}/start")
        assert started.status == 204, started.body
        return str(made.json["Id"])

    def run(self, *words: str, host: Mapping[str, Any] | None = None, **config: Any) -> Outcome:
        """Create, start, wait, collect the output, remove."""
        made = self.create(*words, host=host, **config)
        if made.status != 201:
            return Outcome(made.status, made.body.decode(), False)
        place = f"/containers/{made.json['Id']}"
        try:
            started = self.engine.api("POST", f"{place}/start")
            if started.status != 204:
                return Outcome(started.status, started.body.decode(), False)
            code = self.engine.api("POST", f"{place}/wait").json["StatusCode"]
            return Outcome(code, self.logs(made.json["Id"]), True)
        finally:
            self.engine.api("DELETE", f"{place}?force=1&v=1")

    def logs(self, container: str, *, until: str = "") -> str:
        """What it has written; waits until `until` is in it, if that is not empty."""
        deadline = time.monotonic() + 30
        while True:
            answer = self.engine.api("GET", f"/containers/{container}/logs?stdout=1&stderr=1")
            text = unframe(answer.body).decode(errors="replace")
            if until in text or time.monotonic() > deadline:
                return text
            time.sleep(0.02)

    def exec(self, container: str, *words: str, seconds: float = 60, **config: Any) -> Outcome:
        made = self.engine.api(
            "POST",
            f"/containers/{container}/exec",
            {"Cmd": words, "AttachStdout": True, "AttachStderr": True, **config},
        )
        if made.status != 201:
            return Outcome(made.status, made.body.decode(), False)
        body = post(
            self.engine,
            f"/exec/{made.json['Id']}/start",
            b'{"Detach": false}',
            kind="application/json",
            seconds=seconds,
        )
        found = self.engine.api("GET", f"/exec/{made.json['Id']}/json")
        if found.status != 200:  # it has gone with its container
            return Outcome(found.status, found.body.decode(), False)
        return Outcome(found.json["ExitCode"], unframe(body.body).decode(errors="replace"), body.status == 200)

    def pid(self, container: str) -> int:
        return int(self.engine.api("GET", f"/containers/{container}/json").json["State"]["Pid"])


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def post(
    engine: Engine,
    path: str,
    body: bytes,
    *,
    kind: str = "application/x-tar",
    seconds: float = 60,
    method: str = "POST",
) -> Answer:
    """A POST of bytes; the answer is read to its end."""
    connection = _Connection(engine.instance.docker_socket, seconds)
    try:
        connection.request(method, path, body, {"Content-Type": kind})
        answer = connection.getresponse()
        return Answer(answer.status, answer.read())
    finally:
        connection.close()


@functools.cache
def _base() -> bytes:
    try:
        binary = static_busybox().read_bytes()
    except NotFound as missing:
        pytest.skip(str(missing))
    return busybox_tree(binary, APPLETS.split()).file("bin/probe", probe().read_bytes(), mode=0o755).tar()


@functools.cache
def _compressed(tar: bytes) -> bytes:
    return gzip.compress(tar, compresslevel=1, mtime=0)


def _image(trees: Sequence[Tree], config: Mapping[str, Any]) -> Image:
    """As `image_of`, but the base is packed once: there are many of these."""
    tars = [_base(), *(tree.tar() for tree in trees)]
    layers = [_compressed(tar) for tar in tars]
    own = image_of(command=["true"], config=config)
    parsed, manifest = json.loads(next(iter(own.blobs.values()))), json.loads(own.manifest)
    parsed["rootfs"]["diff_ids"] = [digest_of(tar) for tar in tars]
    text = json.dumps(parsed).encode()
    manifest["config"] |= {"digest": digest_of(text), "size": len(text)}
    manifest["layers"] = [{"mediaType": LAYER_TYPE, "digest": digest_of(layer), "size": len(layer)} for layer in layers]
    return Image(blobs={digest_of(data): data for data in (text, *layers)}, manifest=json.dumps(manifest).encode())


def _layout(image: Image, name: str) -> bytes:
    blobs = {**image.blobs, image.manifest_digest: image.manifest}
    descriptor = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": image.manifest_digest,
        "size": len(image.manifest),
        "annotations": {"io.containerd.image.name": f"docker.io/library/{name}"},
    }
    tree = Tree()
    for digest, data in blobs.items():
        tree.file(f"blobs/sha256/{digest.removeprefix('sha256:')}", data)
    tree.file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    tree.file("index.json", json.dumps({"schemaVersion": 2, "manifests": [descriptor]}).encode())
    return tree.tar()


@pytest.fixture
def attack(engine: Engine) -> Attack:
    return Attack(engine)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A host tree outside of every engine path, and settings of the kernel: none of them may change."""
    directory = tmp_path / "canary"
    directory.mkdir()
    (directory / "file").write_text("canary")
    (directory / "file").chmod(0o600)
    (directory / "link").symlink_to("file")
    os.mkfifo(directory / "fifo")
    (directory / "setuid").write_text("")
    (directory / "setuid").chmod(0o4711)
    before = fingerprint(directory)
    yield directory
    assert fingerprint(directory) == before


def fingerprint(directory: Path) -> list[Any]:
    """Everything about a tree that an attack could change, and the settings beside it."""
    found: list[Any] = []
    for path in [directory, *sorted(directory.rglob("*"))]:
        info = path.lstat()
        text = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        xattrs = os.listxattr(path, follow_symlinks=False)
        found.append(
            (
                str(path),
                info.st_mode,
                info.st_uid,
                info.st_gid,
                info.st_nlink,
                info.st_size,
                info.st_mtime_ns,
                xattrs,
                text,
            )
        )
    for setting in SETTINGS:
        place = Path(setting)
        found.append(place.read_text() if place.exists() else "")
    agents = sorted(Path("/sys/fs/cgroup").glob("*/release_agent"))
    return [*found, *((str(agent), agent.read_text()) for agent in agents)]
