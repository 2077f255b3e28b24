"""Which ports of the host can be had: what its sockets, and other installations on its network, leave free."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import re
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bulkhead.linux import nftables
from bulkhead.linux.netlink import Netlink
from bulkhead.manager.adapters import sysctls
from bulkhead.manager.networks import publish
from bulkhead.model.network import ANY, ANY6, PROTOCOL_NUMBERS

_PORT_RANGE = sysctls.ROOT / "net/ipv4/ip_local_port_range"
# Behind every port's byte: whoever chooses a subnet has this one; and how long (seconds) it is waited for, how often.
_CHOOSING = 1 << 32
_CHOOSING_SECONDS = 5.0
_CHOOSING_POLL = 0.005
_DEFAULT_EPHEMERAL = range(32768, 61000)
_SOCKET_TYPES = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
# `Instance.nft_table`, of any installation.
_INSTANCE_TABLE = re.compile("bulkhead(_[0-9a-f]{8})?")
_UNTESTABLE = (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT)


class Claims:
    """What installations on one network namespace have in common: a file that root alone can lock, a byte a port."""

    def __init__(self) -> None:
        self._file = _opened()

    def reserve(self, protocol: str, port: int) -> bool:
        """Lock a port's byte; False when somebody else has locked it."""
        return self._file is None or _lock(self._file, fcntl.F_WRLCK, _place(protocol, port))

    def unreserve(self, protocol: str, port: int) -> None:
        if self._file is not None:
            _lock(self._file, fcntl.F_UNLCK, _place(protocol, port))

    @asynccontextmanager
    async def choosing(self) -> AsyncIterator[None]:
        """While a subnet is being chosen: one installation at a time, as far as that can be had."""
        file = self._file
        deadline = time.monotonic() + _CHOOSING_SECONDS
        while not (held := file is None or _lock(file, fcntl.F_WRLCK, _CHOOSING)):
            if time.monotonic() > deadline:
                break  # no worse than not to have waited
            await asyncio.sleep(_CHOOSING_POLL)
        try:
            yield
        finally:
            if held and file is not None:
                _lock(file, fcntl.F_UNLCK, _CHOOSING)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _opened() -> int | None:
    try:
        return os.open(_PORT_RANGE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None  # /proc/sys is read-only, say


def _place(protocol: str, port: int) -> int:
    return PROTOCOL_NUMBERS[protocol] << 16 | port


def _lock(file: int, kind: int, place: int) -> bool:
    """One byte (fcntl(2), F_OFD_SETLK); the kernel unlocks what a dead process had locked."""
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, place, 1, 0))
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def ephemeral_ports() -> range:
    """Those of the kernel's own choice."""
    try:
        first, last = _PORT_RANGE.read_text().split()
    except OSError:
        return _DEFAULT_EPHEMERAL
    return range(int(first), int(last) + 1)


def obstacle(protocol: str, address: str, port: int) -> str | None:
    """Why a socket cannot be bound; an address that TIME_WAIT alone holds is free."""
    kind, number = _SOCKET_TYPES[protocol]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, kind | socket.SOCK_CLOEXEC, number) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if protocol != "udp":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except OSError as error:
        if error.errno in _UNTESTABLE:
            return None
        return os.strerror(error.errno or errno.EIO).lower()
    return None


def published_elsewhere(kernel: Netlink, table: str, protocol: str, address: str, port: int) -> bool:
    """Whether another installation's table, whose name is not `table`, publishes what excludes such a port."""
    try:
        names = nftables.table_names(kernel, "inet")
        others = [name for name in names if name != table and _INSTANCE_TABLE.fullmatch(name)]
        return any(_publishes(kernel, other, protocol, address, port) for other in others)
    except OSError:
        return False  # no worse than not to have asked


def _publishes(kernel: Netlink, table: str, protocol: str, address: str, port: int) -> bool:
    """Whether the table of an installation publishes what excludes such a port."""
    maps = ("published6", "published6_any") if ":" in address else ("published", "published_any")
    ending = (str(PROTOCOL_NUMBERS[protocol]), str(port))
    types = publish.LAYOUT.types
    if nftables.has_element(kernel, "inet", table, maps[1], types[maps[1]][0], ending):
        return True
    if address in (ANY, ANY6):
        return nftables.has_key_ending(kernel, "inet", table, maps[0], types[maps[1]][0], ending)
    return nftables.has_element(kernel, "inet", table, maps[0], types[maps[0]][0], (address, *ending))
