"""kill -9 of the manager or the registry in the middle of what concerns images: it can be repeated, nothing is unowned.

By default one point of each of the manager's operations; all forty with BULKHEAD_TEST_KILLS=all.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bulkhead.ctl.seed.images import Image, Tree, digest_of, image_of
from bulkhead.ctl.seed.push import push
from tests.support.engine import Engine, private_engine

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]
POINTS = (0.1, 0.3, 0.5, 0.7, 0.9)
ALL = os.environ.get("BULKHEAD_TEST_KILLS") == "all"
REQUEST_SECONDS = 60
SETTLE_SECONDS = 20.0


@dataclass
class Host:
    """An engine, and how long its operations take undisturbed."""

    engine: Engine
    count: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def name(self) -> str:
        self.count += 1
        return f"trial{self.count}"

    def call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("engine", timeout=REQUEST_SECONDS)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(REQUEST_SECONDS)
        with contextlib.closing(connection):
            connection.sock.connect(str(self.engine.instance.docker_socket))
            connection.request(method, path, body, {"X-Registry-Auth": "e30="})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def done(self, method: str, path: str, body: bytes | None = None) -> bytes:
        status, answer = self.call(method, path, body)
        assert status < 300, (path, status, answer)
        assert b'"errorDetail"' not in answer, answer
        return answer

    def load(self, name: str) -> None:
        self.done("POST", "/images/load?quiet=1", archive(trial_image(), name))

    def container(self) -> str:
        """Made, and not started: a commit of it is its image, and a layer of nothing."""
        made = json.loads(self.done_json("/containers/create", {"Image": "busybox", "Cmd": ["true"]}))
        return str(made["Id"])

    def done_json(self, path: str, body: object) -> bytes:
        answer = self.engine.api("POST", path, body)
        assert answer.status < 300, answer.body
        return answer.body


def trial_image() -> Image:
    """Two layers that nobody has seen before, one of many files and one that does not compress."""
    many = Tree()
    for number in range(300):
        many.file(f"d{number // 50}/f{number}", os.urandom(64))
    return image_of(many, Tree().file("big", os.urandom(4 << 20)), command=["/x"])


def archive(image: Image, name: str) -> bytes:
    """An OCI layout in a tar, as `docker save` writes it."""
    descriptor = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": image.manifest_digest,
        "size": len(image.manifest),
        "annotations": {"io.containerd.image.name": f"docker.io/library/{name}:latest"},
    }
    index = json.dumps({"schemaVersion": 2, "manifests": [descriptor]}).encode()
    members = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": index}
    for data in (*image.blobs.values(), image.manifest):
        members[f"blobs/{digest_of(data).replace(':', '/')}"] = data
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, data in members.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


# An operation: what makes it possible, and it itself; each is given the host and returns the next step.
Act = Callable[[], object]


def pulling(host: Host) -> Act:
    name, registry = host.name(), host.engine.instance.registry
    push(registry, name, "latest", trial_image())
    return lambda: host.done("POST", f"/images/create?fromImage={registry}/{name}&tag=latest")


def pushing(host: Host) -> Act:
    name, registry = host.name(), host.engine.instance.registry
    host.load(name)
    host.done("POST", f"/images/{name}/tag?repo={registry}/{name}&tag=latest")
    return lambda: host.done("POST", f"/images/{registry}/{name}/push?tag=latest")


def loading(host: Host) -> Act:
    data = archive(trial_image(), host.name())
    return lambda: host.done("POST", "/images/load?quiet=1", data)


def committing(host: Host) -> Act:
    container, name = host.container(), host.name()
    return lambda: host.done_json(f"/commit?container={container}&repo={name}&tag=latest", {})


def removing(host: Host) -> Act:
    name = host.name()
    host.load(name)

    def remove() -> None:
        status, answer = host.call("DELETE", f"/images/{name}")
        assert status in (200, 404), answer

    return remove


def collecting(host: Host) -> Act:
    for _ in range(2):
        host.load(host.name())
    return lambda: host.done("POST", '/images/prune?filters={"dangling":["false"]}')


OPERATIONS = {
    "pull": (pulling, "manager"),
    "push": (pushing, "manager"),
    "load": (loading, "manager"),
    "commit": (committing, "manager"),
    "rm": (removing, "manager"),
    "gc": (collecting, "manager"),
    "pull, registry": (pulling, "registry"),
    "push, registry": (pushing, "registry"),
}
TRIALS = [
    (name, point)
    for number, name in enumerate(OPERATIONS)
    for place, point in enumerate(POINTS)
    if ALL or (OPERATIONS[name][1] == "manager" and place == (2 * number + 2) % len(POINTS))
]


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with private_engine() as engine:
        engine.start()
        engine.seed()
        host = Host(engine)
        # A container keeps busybox from being collected.
        engine.pulled("busybox")
        host.container()
        yield host
        nothing_unowned(host)


def pace(host: Host, name: str) -> float:
    """How long an operation takes when nobody is killed."""
    if name not in host.seconds:
        act = OPERATIONS[name][0](host)
        begun = time.monotonic()
        act()
        host.seconds[name] = time.monotonic() - begun
    return host.seconds[name]


@pytest.mark.parametrize(("name", "point"), TRIALS, ids=[f"{name} at {point}" for name, point in TRIALS])
def test_killed_in_the_middle(host: Host, name: str, point: float) -> None:
    prepare, victim = OPERATIONS[name]
    delay = pace(host, name) * point
    act = prepare(host)
    working = threading.Thread(target=_attempt, args=(act,))
    working.start()
    time.sleep(delay)
    host.engine.kill(victim)
    # Retries of the other side may last as long as it is away.
    host.engine.start(victim)
    working.join(REQUEST_SECONDS)
    assert not working.is_alive()
    act()
    checked = host.engine.ctl("fsck")
    assert checked.returncode == 0, checked.stdout


def _attempt(act: Act) -> None:
    """Whatever comes of it: the process that does it dies."""
    with contextlib.suppress(Exception, AssertionError):
        act()


def nothing_unowned(host: Host) -> None:
    """When all images are gone that no container needs, the disk has those that some do, and not a byte beside."""
    host.done("POST", '/images/prune?filters={"dangling":["false"]}')
    data = host.engine.instance.data
    images = json.loads(host.done("GET", "/images/json"))
    assert [image["RepoTags"] for image in images] == [["busybox:latest"]]
    assert len(_names(data / "content" / "blobs" / "sha256")) == 3, "config, manifest, one layer"
    assert len(_names(data / "snapshots" / "layers")) == 1
    for empty in ("content/ingest", "content/partial", "snapshots/ingest"):
        assert _names(data / empty) == []
    deadline = time.monotonic() + SETTLE_SECONDS
    while _names(data / "snapshots" / "trash"):
        assert time.monotonic() < deadline, "the trash is not emptied"
        time.sleep(0.1)


def _names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())
