"""Clients that hang up in the middle of an answer: the engine stops the work that nobody waits for."""

from __future__ import annotations

import asyncio
import io
import socket
import tarfile
import time
from pathlib import Path

from tests.support.engine import Engine
from tests.support.eventually import eventually

WRITE = "dd if=/dev/zero of=/big bs=1M count=128"


def workers(engine: Engine, kind: str = "tree_worker") -> list[str]:
    """Workers of this engine's manager."""
    found = []
    for each in Path(f"/proc/{engine.pid('manager')}/task").glob("*/children"):
        for pid in each.read_text().split():
            try:
                found += [pid] if kind in Path(f"/proc/{pid}/cmdline").read_text() else []
            except OSError:
                continue
    return found


def test_an_export_ends_with_its_client(engine: Engine) -> None:
    """Its worker would be left for good, with its pipe full and nobody at the other end."""
    engine.docker_ok("run", "--name", "big", "busybox", "sh", "-c", WRITE)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(engine.instance.docker_socket))
        client.sendall(b"GET /containers/big/export HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(12).endswith(b"200")
        assert workers(engine)
    asyncio.run(eventually(lambda: not workers(engine)))


def files(count: int, size: int) -> bytes:
    """An archive without its end: it could go on."""
    held = io.BytesIO()
    tar = tarfile.open(fileobj=held, mode="w")  # noqa: SIM115 - its end is what closing would write
    for number in range(count):
        info = tarfile.TarInfo(f"file{number}")
        info.size = size
        tar.addfile(info, io.BytesIO(bytes(size)))
    return held.getvalue()


def test_an_archive_that_breaks_off_is_not_unpacked(engine: Engine) -> None:
    """Though it ends where an archive may end: its client has not said so, and nobody must believe that it did."""
    engine.docker_ok("create", "--name", "box", "busybox")
    sent, begun = files(2, 1024), int(time.time())
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(engine.instance.docker_socket))
        head = f"PUT /containers/box/archive?path=/ HTTP/1.1\r\nHost: x\r\nContent-Length: {2 * len(sent)}\r\n\r\n"
        client.sendall(head.encode() + sent)
        asyncio.run(eventually(lambda: bool(workers(engine, "copy_worker"))))
    asyncio.run(eventually(lambda: not workers(engine, "copy_worker")))
    engine.docker_ok("rm", "box")
    told = engine.docker_ok("events", "--since", str(begun), "--until", str(int(time.time()) + 1))
    assert "destroy" in told and "extract-to-dir" not in told
    assert list(engine.instance.inlets.iterdir()) == []


def test_what_is_copied_in_passes_the_manager_by(engine: Engine) -> None:
    """It serves everybody, and would carry every byte twice."""
    engine.docker_ok("create", "--name", "box", "busybox")
    archive = files(4, 4 << 20) + bytes(1024)
    before = read_by(engine)
    assert engine.put("/containers/box/archive?path=/", archive).status == 200
    assert read_by(engine) - before < len(archive) // 2


def read_by(engine: Engine) -> int:
    """Bytes that the manager has read (proc(5))."""
    told = Path(f"/proc/{engine.pid('manager')}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in told)["rchar"])
