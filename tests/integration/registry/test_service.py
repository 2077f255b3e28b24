"""The service as a process: flags, SIGTERM, SIGKILL, a full disk, and the clients that people have."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ports import free_port

SOURCE = Path(__file__).resolve().parents[3] / "services"
BIG = os.urandom(2 << 20)
DIGEST = f"sha256:{hashlib.sha256(BIG).hexdigest()}"


class Service:
    """A registry process."""

    def __init__(self, directory: Path, root: Path | None = None) -> None:
        self.root = root or directory / "root"
        self._directory = directory
        self._flags: list[str] = []
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environ(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(SOURCE),
            "BULKHEAD_RUN": str(self._directory / "run"),
            "BULKHEAD_DATA": str(self._directory / "data"),
        }

    def configure(self, text: str) -> list[str]:
        """Write a configuration file; the flags that name it."""
        (self._directory / "config.toml").write_text(text)
        self._flags = ["--config", str(self._directory / "config.toml")]
        return self._flags

    def start(self) -> None:
        environ = self.environ
        command = [sys.executable, "-m", "bulkhead.registry", "--listen", f"127.0.0.1:{self.port}"]
        with (self._directory / "log").open("ab") as log:
            self.process = subprocess.Popen([*command, *self._flags, "--root", str(self.root)], env=environ, stderr=log)
        end = time.monotonic() + 90
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError):
                if self.ask("GET", "/healthz")[0] == 200:
                    return
            time.sleep(0.01)
        raise AssertionError((self._directory / "log").read_text())

    def signal(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def log(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self._directory / "log").read_text().splitlines()]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A short path: an instance's run directory must leave room for the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="bh-registry-") as directory:
        yield Path(directory)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    service.start()
    yield service
    if service.process is not None and service.process.poll() is None:
        service.signal(signal.SIGKILL)


def test_what_was_acknowledged_survives_sigkill(service: Service) -> None:
    assert service.ask("POST", f"/v2/app/blobs/uploads/?digest={DIGEST}", BIG)[0] == 201
    _, headers, _ = service.ask("POST", "/v2/app/blobs/uploads/")
    assert service.ask("PATCH", headers["location"], BIG[:1_000_000])[0] == 202
    service.signal(signal.SIGKILL)
    service.start()
    assert service.ask("GET", f"/v2/app/blobs/{DIGEST}")[2] == BIG
    status, state, _ = service.ask("GET", headers["location"])
    assert (status, state["range"]) == (204, "0-999999")
    assert service.ask("PUT", f"{headers['location']}?digest={DIGEST}", BIG[1_000_000:])[0] == 201


def test_sigterm_lets_the_request_under_way_end(service: Service) -> None:
    upload = socket.create_connection(("127.0.0.1", service.port))
    head = f"POST /v2/app/blobs/uploads/?digest={DIGEST} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BIG)}\r\n\r\n"
    upload.sendall(head.encode() + BIG[:1_000_000])
    _wait_for(lambda: any((service.root / "uploads").glob("*.data")))
    assert service.process is not None
    service.process.send_signal(signal.SIGTERM)
    _wait_for(lambda: any(line["event"] == "draining" for line in service.log()))
    upload.sendall(BIG[1_000_000:])
    assert upload.recv(100).startswith(b"HTTP/1.1 201 ")
    assert service.process.wait(30) == 0
    upload.close()


def test_the_second_sigterm_leaves_at_once(service: Service) -> None:
    upload = socket.create_connection(("127.0.0.1", service.port))
    upload.sendall(
        b"POST /v2/app/blobs/uploads/?digest=%b HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx" % DIGEST.encode()
    )
    _wait_for(lambda: any((service.root / "uploads").glob("*.data")))
    assert service.process is not None
    service.process.send_signal(signal.SIGTERM)
    _wait_for(lambda: any(line["event"] == "draining" for line in service.log()))
    assert service.signal(signal.SIGTERM) == 128 + signal.SIGTERM
    upload.close()


def test_every_line_of_the_log_is_json_with_the_callers_id(service: Service) -> None:
    service.ask("POST", "/v2/app/blobs/uploads/", headers={"X-Request-Id": "abc-123"})
    service.ask("GET", "/v2/app/manifests/none")
    with socket.create_connection(("127.0.0.1", service.port)) as raw:
        raw.sendall(b"\x16\x03\x01 not http at all\r\n\r\n")
        raw.recv(1000)
    lines = service.log()
    assert any(line.get("request_id") == "abc-123" and line["status"] == 202 for line in lines)
    assert any(line.get("status") == 404 for line in lines)


def test_the_operator_collects_and_the_metrics_tell(tmp_path: Path) -> None:
    service = Service(tmp_path)
    flags = service.configure("[registry.gc]\ninterval = 0\ngrace = 0\nreader_grace = 0\n")
    service.start()
    try:
        assert service.ask("POST", f"/v2/app/blobs/uploads/?digest={DIGEST}", BIG)[0] == 201
        command = [sys.executable, "-m", "bulkhead.registry", "gc", *flags]
        for deleted in ("deleted 1 objects, 2097152 bytes", "deleted 0 objects, 0 bytes"):
            done = subprocess.run(command, env=service.environ, capture_output=True, text=True, check=True)
            assert deleted in done.stdout
        assert [path for path in (service.root / "objects").rglob("*") if path.is_file()] == []
        metrics = service.ask("GET", "/metrics")[2].decode()
        assert 'registry_http_requests_total{code="201",method="POST",route="uploads"} 1.0' in metrics
        assert "registry_http_requests_active 1.0" in metrics, "the one that asks"
        assert "registry_http_received_bytes_total 2.097152e+06" in metrics
        assert "registry_gc_freed_bytes_total 2.097152e+06" in metrics
    finally:
        service.signal(signal.SIGTERM)
    done = subprocess.run(command, env=service.environ, capture_output=True, text=True, check=False)
    assert (done.returncode, "cannot reach the registry" in done.stderr) == (1, True)


def test_terms_of_the_collector_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    service = Service(tmp_path)
    service.configure("[registry.gc]\ngrace = -1\n")
    with pytest.raises(AssertionError, match=r"grace: -1\.0 is negative"):
        service.start()


def test_a_second_registry_on_the_same_root_is_refused(service: Service, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    with pytest.raises(AssertionError, match="another process uses it"):
        Service(second, service.root).start()


def test_an_address_in_use_is_said(service: Service, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    second = Service(other)
    second.port = service.port
    command = [sys.executable, "-m", "bulkhead.registry", "--listen", f"127.0.0.1:{service.port}"]
    environ = {**os.environ, "PYTHONPATH": str(SOURCE), "BULKHEAD_RUN": str(other / "run")}
    environ["BULKHEAD_DATA"] = str(other / "data")
    done = subprocess.run([*command, "--root", str(other / "root")], env=environ, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"address already in use" in done.stderr


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1:99999", ":x"])
def test_a_bad_address_is_said(tmp_path: Path, listen: str) -> None:
    command = [sys.executable, "-m", "bulkhead.registry", "--listen", listen, "--root", str(tmp_path / "root")]
    environ = {**os.environ, "PYTHONPATH": str(SOURCE), "BULKHEAD_RUN": str(tmp_path / "run")}
    environ["BULKHEAD_DATA"] = str(tmp_path / "data")
    done = subprocess.run(command, env=environ, capture_output=True, check=False, timeout=30)
    assert (done.returncode, b"not host:port" in done.stderr) == (1, True)


def test_a_full_disk_is_temporary_and_recovers(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting needs root")
    service = Service(tmp_path, disk / "root")
    try:
        service.start()
        assert service.ask("POST", f"/v2/app/blobs/uploads/?digest={DIGEST}", BIG)[0] == 201
        other = os.urandom(2 << 20)
        digest = f"sha256:{hashlib.sha256(other).hexdigest()}"
        status, headers, body = service.ask("POST", f"/v2/app/blobs/uploads/?digest={digest}", other)
        assert (status, json.loads(body)["errors"][0]["code"]) == (503, "UNAVAILABLE")
        assert int(headers["retry-after"]) > 0
        assert list((service.root / "uploads").iterdir()) == []
        assert service.ask("GET", f"/v2/app/blobs/{DIGEST}")[2] == BIG
        small = f"sha256:{hashlib.sha256(b'small').hexdigest()}"
        assert service.ask("POST", f"/v2/app/blobs/uploads/?digest={small}", b"small")[0] == 201
    finally:
        if service.process is not None:
            service.signal(signal.SIGKILL)
        subprocess.run(["umount", str(disk)], check=True)


def test_skopeo_pushes_and_pulls(service: Service, tmp_path: Path) -> None:
    """A busybox image made here, through the client that people have."""
    if shutil.which("skopeo") is None or not Path("/bin/busybox").exists():
        pytest.skip("needs skopeo and busybox")
    layout = _busybox_layout(tmp_path / "layout")
    target = f"docker://127.0.0.1:{service.port}/library/busybox:latest"
    _skopeo("copy", "--dest-tls-verify=false", f"oci:{layout}:latest", target)
    _skopeo("copy", "--dest-tls-verify=false", "--format=v2s2", f"oci:{layout}:latest", target.replace("latest", "v2"))
    for tag in ("latest", "v2"):
        pulled = tmp_path / tag
        _skopeo("copy", "--src-tls-verify=false", target.replace("latest", tag), f"dir:{pulled}")
        blobs = {path.name for path in (layout / "blobs/sha256").iterdir()}
        layers = {layer["digest"].removeprefix("sha256:") for layer in _manifest(pulled)["layers"]}
        assert layers <= blobs
        assert all(hashlib.sha256((pulled / layer).read_bytes()).hexdigest() == layer for layer in layers)
    listed = json.loads(_skopeo("list-tags", "--tls-verify=false", target.removesuffix(":latest")))
    assert listed["Tags"] == ["latest", "v2"]
    _skopeo("delete", "--tls-verify=false", target)
    assert service.ask("GET", "/v2/library/busybox/manifests/latest")[0] == 404


def _skopeo(*arguments: str) -> str:
    done = subprocess.run(["skopeo", *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _manifest(directory: Path) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = json.loads((directory / "manifest.json").read_text())
    return found


def _busybox_layout(layout: Path) -> Path:
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)
    tree = layout.parent / "tree/bin"
    tree.mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "busybox")
    tar = subprocess.run(["tar", "-C", str(tree.parent), "-c", "."], capture_output=True, check=True).stdout

    def put(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    rootfs = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}"]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs, "config": {"Cmd": ["sh"]}}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(config, "application/vnd.oci.image.config.v1+json"),
        "layers": [put(gzip.compress(tar), "application/vnd.oci.image.layer.v1.tar+gzip")],
    }
    entry = put(json.dumps(manifest).encode(), str(manifest["mediaType"]))
    entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return layout


def _wait_for(condition) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
