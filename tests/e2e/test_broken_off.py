"""Clients that hang up in the middle of an answer: the engine stops the work that nobody waits for."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from tests.support.engine import Engine
from tests.support.eventually import eventually

WRITE = "dd if=/dev/zero of=/big bs=1M count=128"


def workers(engine: Engine) -> list[str]:
    """The tree workers of this engine's manager."""
    found = []
    for each in Path(f"/proc/{engine.pid('manager')}/task").glob("*/children"):
        for pid in each.read_text().split():
            try:
                found += [pid] if "tree_worker" in Path(f"/proc/{pid}/cmdline").read_text() else []
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
