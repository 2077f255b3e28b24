"""The registry beside Debian's docker-registry, over loopback: blobs, manifests, uploads; the two take turns.

Clients are bare sockets in processes of their own, the same for both.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from multiprocessing.synchronize import Barrier as BarrierType
from pathlib import Path

from tests.bench.sitting import Bench, Sitting
from tests.support.ports import free_port

MEET_SECONDS = 30.0
END_SECONDS = 30.0
# What a client reports: why it failed, or what it did.
Done = tuple[str, float]
SOURCE = Path(__file__).resolve().parents[2] / "services"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_REGISTRY = """version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}, cache: {{blobdescriptor: inmemory}}}}
http: {{addr: 127.0.0.1:{port}}}
"""


def registries(sitting: Sitting) -> None:
    """Both started, every figure of each, turn by turn."""
    with tempfile.TemporaryDirectory(prefix="bh-rbench-") as directory, ExitStack() as stack:
        names = ["bulkhead"] + ["docker-registry"] * (shutil.which("docker-registry") is not None)
        ports = {name: stack.enter_context(serving(name, Path(directory))) for name in names}
        data = os.urandom(1 << 20) * sitting.size(128, 64)
        pushed = {name: push_image(port, data) for name, port in ports.items()}
        rows = works(data, seconds=0.5)
        for row, work in rows.items():
            for number in sitting.rounds(30, 3, share=1 / len(rows)):
                for name, port in ports.items():
                    sitting.record(f"registry {row}", name, work(port, pushed[name], number))


def works(data: bytes, seconds: float) -> dict[str, Callable[[int, Image, int], float]]:
    """What is measured: (port, image, number of the round) -> figure."""

    def get(clients: int) -> Callable[[int, Image, int], float]:
        return lambda port, image, _: crowd(port, clients, fetch, f"/v2/bench/app/blobs/{image.layer}", 2) / 1e6

    def manifests(clients: int, *, by_tag: bool) -> Callable[[int, Image, int], float]:
        def work(port: int, image: Image, _: int) -> float:
            reference = "v1" if by_tag else image.manifest
            return crowd(port, clients, ask, f"/v2/bench/app/manifests/{reference}", seconds)

        return work

    return {
        "blob PUT, 1 client [MB/s]": lambda port, _, number: upload(port, data, number),
        "blob GET, 1 client [MB/s]": get(1),
        "blob GET, 8 clients [MB/s]": get(8),
        "manifest GET by tag, 1 client [req/s]": manifests(1, by_tag=True),
        "manifest GET by tag, 32 clients [req/s]": manifests(32, by_tag=True),
        "manifest GET by digest, 32 clients [req/s]": manifests(32, by_tag=False),
    }


@contextmanager
def serving(name: str, directory: Path) -> Iterator[int]:
    port, root = free_port(), directory / name
    root.mkdir()
    environ = dict(os.environ)
    if name == "bulkhead":
        environ |= {"PYTHONPATH": str(SOURCE), "BULKHEAD_RUN": str(root / "run"), "BULKHEAD_DATA": str(root / "data")}
        command = [sys.executable, "-m", "bulkhead.registry", "--listen", f"127.0.0.1:{port}"]
    else:
        (root / "config.yml").write_text(DOCKER_REGISTRY.format(root=root / "data", port=port))
        command = ["docker-registry", "serve", str(root / "config.yml")]
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
    try:
        wait_for(port)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What was pushed: digests."""

    layer: str
    manifest: str


def push_image(port: int, data: bytes) -> Image:
    layer = push(port, "bench/app", data)
    return Image(layer=layer, manifest=push_manifest(port, "bench/app", layer, len(data)))


def upload(port: int, data: bytes, number: int) -> float:
    """MB/s of a PUT whose bytes the registry has not seen."""
    fresh = number.to_bytes(8, "big") + data
    digest = f"sha256:{hashlib.sha256(fresh).hexdigest()}"
    connection = HTTPConnection("127.0.0.1", port)
    location = start(connection, f"bench/up{number}")
    began = time.perf_counter()
    connection.request("PUT", with_digest(location, digest), fresh)
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 201, answer.status
    return len(fresh) / (time.perf_counter() - began) / 1e6


def push(port: int, repository: str, data: bytes) -> str:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    connection = HTTPConnection("127.0.0.1", port)
    location = start(connection, repository)
    connection.request("PUT", with_digest(location, digest), data)
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 201, answer.status
    return digest


def start(connection: HTTPConnection, repository: str) -> str:
    connection.request("POST", f"/v2/{repository}/blobs/uploads/", headers={"Content-Length": "0"})
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 202, answer.status
    location = answer.getheader("Location") or ""
    return location.partition(f":{connection.port}")[2] if "://" in location else location


def with_digest(location: str, digest: str) -> str:
    return f"{location}{'&' if '?' in location else '?'}digest={digest}"


def push_manifest(port: int, repository: str, layer: str, size: int) -> str:
    config = push(port, repository, b"{}")
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": size}],
        }
    ).encode()
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("PUT", f"/v2/{repository}/manifests/v1", body, {"Content-Type": MANIFEST})
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 201, answer.status
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def crowd(port: int, clients: int, work: Callable[[int, str, float], float], path: str, amount: float) -> float:
    """The sum of what each client did, by the second of the whole. RuntimeError when one has failed."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(clients + 1)
    results: multiprocessing.SimpleQueue[Done] = context.SimpleQueue()
    arguments = (barrier, results, work, port, path, amount)
    children = [context.Process(target=_client, args=arguments, daemon=True) for _ in range(clients)]
    for child in children:
        child.start()
    barrier.wait(MEET_SECONDS)
    began = time.perf_counter()
    done = [results.get() for _ in children]
    took = time.perf_counter() - began
    for child in children:
        child.join()
    if failed := [error for error, _ in done if error]:
        raise RuntimeError(f"{len(failed)} of {clients} clients failed: {failed[0]}")
    return sum(value for _, value in done) / took


def _client(
    barrier: BarrierType,
    results: multiprocessing.SimpleQueue[Done],
    work: Callable[[int, str, float], float],
    port: int,
    path: str,
    amount: float,
) -> None:
    barrier.wait(MEET_SECONDS)
    try:
        results.put(("", work(port, path, amount)))
    except Exception as error:
        results.put((repr(error), 0.0))


def fetch(port: int, path: str, times: float) -> float:
    """Download `times` times; bytes."""
    buffer, total = bytearray(1 << 20), 0
    with socket.create_connection(("127.0.0.1", port)) as peer:
        for _ in range(int(times)):
            length, rest = head(peer, path)
            left = length - rest
            while left > 0:
                count = peer.recv_into(buffer, min(left, len(buffer)))
                assert count, "the answer broke off"
                left -= count
            total += length
    return float(total)


def ask(port: int, path: str, seconds: float) -> float:
    """Ask for so long; how many answers."""
    count, end = 0, time.perf_counter() + seconds
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while time.perf_counter() < end:
            length, rest = head(peer, path)
            while rest < length:
                more = len(peer.recv(65536))
                assert more, "the answer broke off"
                rest += more
            count += 1
    return float(count)


def head(peer: socket.socket, path: str) -> tuple[int, int]:
    """Ask; (length of the body, bytes of it that came with the headers)."""
    peer.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {MANIFEST}\r\n\r\n".encode())
    data = b""
    while b"\r\n\r\n" not in data:
        more = peer.recv(65536)
        assert more, "the answer broke off"
        data += more
    headers, _, rest = data.partition(b"\r\n\r\n")
    assert headers.startswith(b"HTTP/1.1 200"), headers
    lines = {line.split(b":", 1)[0].lower(): line.split(b":", 1)[1] for line in headers.split(b"\r\n")[1:]}
    return int(lines[b"content-length"]), len(rest)


def wait_for(port: int) -> None:
    for _ in range(500):
        with suppress(OSError):
            connection = HTTPConnection("127.0.0.1", port)
            connection.request("GET", "/v2/")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.02)
    raise SystemExit("the registry did not start")


BENCHES = (Bench(name="registry", about="the registry beside docker-registry", run=registries),)
