"""C09, C11: copies of a container whose processes move its directories and links about all the time."""

from __future__ import annotations

import http.client
import io
import os
import socket
import tarfile
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.engine import Engine

ROUNDS = 6
MARK = b"the host's own"
SWAP = (
    "mkdir -p /work/a/b /work/c; cd /work; echo ready; "
    "while :; do mv a x; ln -s %s a; mv c y; ln -s / c; rm a c; mv x a; mv y c; done"
)


def archive(name: str) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(b"from the archive")
        tar.addfile(info, io.BytesIO(b"from the archive"))
    return held.getvalue()


def call(engine: Engine, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("engine")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(60)
    connection.sock.connect(str(engine.instance.docker_socket))
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A directory of the host with a file that a container must neither read nor change."""
    place = tmp_path / "host"
    place.mkdir()
    (place / "canary").write_bytes(MARK)
    (place / "b").mkdir()
    return place


def test_swapped_ways_lead_nowhere_else(engine: Engine, host: Path) -> None:
    script = SWAP % f"/../../..{host}"
    volumes = ["-v", "/work/a/b", "-v", f"{host}:/bound:ro"]
    engine.docker_ok("run", "-d", "--name", "swap", *volumes, "busybox", "sh", "-c", script)
    before = _facts(host)
    seen = set()
    for _ in range(ROUNDS):
        for way in ("/work/a", "/work/a/", "/work/c/tmp", f"/work/c{host}"):
            path = f"/containers/swap/archive?path={quote(way)}"
            status, data = call(engine, "GET", path)
            assert MARK not in data
            seen.add(status)
            seen.add(call(engine, "PUT", path, archive("canary"))[0])
            seen.add(call(engine, "PUT", path, archive("a/b/canary"))[0])
    assert _facts(host) == before
    assert 200 in seen and seen <= {200, 400, 403, 404, 500}


def test_a_stopped_containers_links_are_its_own(engine: Engine, host: Path) -> None:
    """Also those on the way to where its volumes belong: `/var/run -> /run` is every image's (moby fb3702d033)."""
    script = f"mkdir -p /run /var; ln -s /run /var/run; ln -s {host} /evil; ln -s /../../..{host} /evil2"
    engine.docker_ok("run", "--name", "first", "busybox", "sh", "-c", script)
    engine.docker_ok("commit", "first", "linked")
    before = _facts(host)
    places = ["-v", "/var/run/v", "-v", "/evil/b", "-v", "/evil2/canary/x"]
    engine.docker_ok("create", "--name", "second", *places, "linked", "true")
    path = "/containers/second/archive?path="
    assert call(engine, "PUT", path + "/var/run/v", archive("kept"))[0] == 200
    assert b"from the archive" in call(engine, "GET", path + "/run/v/kept")[1]
    for way in ("/evil", "/evil/", "/evil/b", "/evil2/", "/evil2/canary"):
        status, data = call(engine, "GET", path + way)
        assert MARK not in data, (way, status)
        call(engine, "PUT", path + way, archive("canary"))
    assert _facts(host) == before
    engine.docker_ok("rm", "-fv", "first", "second")
    engine.docker_ok("rmi", "linked")


@pytest.mark.parametrize("name", ["../canary", "a/../../canary", "/../canary"])
def test_names_that_climb_out_are_refused(engine: Engine, name: str) -> None:
    engine.docker_ok("create", "--name", "box", "busybox")
    status, data = call(engine, "PUT", "/containers/box/archive?path=/tmp", archive(name))
    assert (status, b"climbs out" in data) == (400, True)


def _facts(host: Path) -> list[tuple[str, bytes]]:
    """Every file below, and what is mounted anywhere on the machine."""
    found = [(str(path), path.read_bytes() if path.is_file() else b"") for path in sorted(host.rglob("*"))]
    mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
    return [*found, *(("mount", line) for line in mounts if os.fsencode(host) in line)]
