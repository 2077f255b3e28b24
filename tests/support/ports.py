"""Ports of the loopback for servers that are told their address before they listen."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

from tests.support.drawn import Drawn

# Below what the kernel gives to connections (net.ipv4.ip_local_port_range): it would give one away while its server
# is down, and is free in turns to every worker that asks for any.
PORTS = range(10_000, 32_000)


_DRAWN = Drawn(Path("/tmp/bulkhead-test-ports"))


def free_port() -> int:
    """One that nobody has, and that nobody else has drawn who still runs."""
    return free_ports(1)


def free_ports(number: int) -> int:
    """The first of so many in a row."""
    for _ in range(1000):
        first = random.choice(PORTS[:-number])
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in range(first, first + number):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            if all(_DRAWN.take(port) for port in range(first, first + number)):
                return first
    raise AssertionError("no free ports")
