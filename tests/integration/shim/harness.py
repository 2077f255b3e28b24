"""Shims for tests: forked by a zygote as in production, spoken to on both roads."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bulkhead.errors import Unavailable
from bulkhead.linux import fdpass
from bulkhead.wire.gen.bulkhead.shim import v1 as shim
from bulkhead.wire.ttrpc_client import ShimClient, TtrpcClient

FAKE = (sys.executable, "-m", "tests.support.fake_launcher", "zygote")
CONTAINER_ID = "ab" * 32
_FRAME = struct.Struct(">BxxxI")


class Nursery:
    """A zygote and what it is asked for."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen([*command, str(theirs.fileno())], pass_fds=[theirs.fileno()])
        self._control.settimeout(20)
        # The one that has not rehearsed.
        self.first = self.spare()

    def spare(self) -> socket.socket:
        """The link to a fresh spare."""
        self._control.send(b"s")
        _, (fd,) = fdpass.receive(self._control, 16, 1)
        link = socket.socket(fileno=fd)
        link.settimeout(20)
        return link

    def close(self) -> None:
        self.first.close()
        self._control.close()
        self.process.wait(20)


def become(link: socket.socket, run_dir: Path, data_dir: Path, container_id: str = CONTAINER_ID) -> dict[str, Any]:
    """Give a spare its identity; what it answered."""
    with link:
        link.send(f"{container_id}\0{run_dir}\0{data_dir}".encode())
        answer: dict[str, Any] = json.loads(link.recv(65536))
    return answer


@dataclass
class Shim:
    """A shim under test."""

    run_dir: Path
    data_dir: Path
    pid: int
    client: ShimClient
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.data_dir / "log.json"

    async def create(self, **options: Any) -> shim.CreateResponse:
        """Create with a json-file log unless told otherwise; a failed launch is returned."""
        options.setdefault("log", shim.LogOptions(driver="json-file", path=str(self.log)))
        return await self.client.create(shim.CreateRequest(**options))

    async def run(self, **options: Any) -> shim.WaitResponse:
        """Create, start, wait."""
        assert (await self.create(**options)).failure is None
        assert (await self.client.start()).failure is None
        return await self.client.wait(timeout=20)

    async def dial(self, **wish: Any) -> Stream:
        """A client of stdio.sock that has sent its line and read the answer."""
        reader, writer = await asyncio.open_unix_connection(str(self.run_dir / "stdio.sock"), limit=1 << 20)
        writer.write(json.dumps(wish).encode() + b"\n")
        return Stream(reader, writer, json.loads(await reader.readline()))

    async def attach(self, **wish: Any) -> Stream:
        """Attached with everything that `wish` does not exclude."""
        return await self.dial(**{"op": "attach", "stdin": True, "stdout": True, "stderr": True} | wish)

    def records(self) -> list[dict[str, str]]:
        """The log, decoded."""
        return [json.loads(line) for line in self.log.read_bytes().splitlines()]

    def logged(self, stream: str = "stdout") -> str:
        """What one stream said."""
        return "".join(record["log"] for record in self.records() if record["stream"] == stream)


@dataclass
class Stream:
    """The data road's other end."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    answer: dict[str, Any]

    async def frame(self) -> tuple[int, bytes]:
        """The next stdcopy frame."""
        stream, length = _FRAME.unpack(await self.reader.readexactly(_FRAME.size))
        return stream, await self.reader.readexactly(length)

    async def until(self, expected: bytes) -> bytes:
        """Raw bytes up to `expected` (terminals)."""
        return await asyncio.wait_for(self.reader.readuntil(expected), 20)

    async def everything(self) -> bytes:
        """Raw bytes to the end of the stream."""
        return await asyncio.wait_for(self.reader.read(), 20)

    async def output(self) -> dict[int, bytes]:
        """Every frame to the end of the stream, joined by stream."""
        found = {1: b"", 2: b""}
        for stream, payload in split_frames(await self.everything()):
            found[stream] += payload
        return found

    def close(self) -> None:
        self.writer.close()


def split_frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """stdcopy frames; fails when the data is anything else."""
    position = 0
    while position < len(data):
        stream, length = _FRAME.unpack_from(data, position)
        assert stream in (1, 2)
        position += _FRAME.size + length
        assert position <= len(data)
        yield stream, data[position - length : position]


@contextlib.asynccontextmanager
async def connected(run_dir: Path, data_dir: Path, pid: int) -> AsyncIterator[Shim]:
    """A shim's client; the shim is shut down at the end, and must be gone then."""
    client = TtrpcClient(run_dir / "shim.sock")
    await client.connect()
    under_test = Shim(run_dir, data_dir, pid, ShimClient(client))
    try:
        yield under_test
    finally:
        if not client.closed.done():
            with contextlib.suppress(Unavailable):
                await under_test.client.shutdown()
            # Clients that the test left open are waited for; the test has gone.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(client.closed), 15)
        await client.close()
        trouble = data_dir / "shim.log"
        assert not trouble.exists(), trouble.read_text()


def script(text: str, *, terminal: bool = False, **more: Any) -> dict[str, Any]:
    """A config for the fake launcher: a shell script."""
    return {"process": {"args": ["/bin/sh", "-c", text], "terminal": terminal, "cwd": "/"}, **more}


def write_config(data_dir: Path, config: dict[str, Any]) -> None:
    data_dir.mkdir(parents=True, exist_ok=True)
    (data_dir / "config.json").write_text(json.dumps(config))


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"


def descriptors(pid: int) -> list[str]:
    """What a process has open; it may open and close while it is looked at."""
    found = list[str]()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(entry.readlink()))
    return sorted(found)


async def gone(pid: int, *, timeout: float = 20) -> None:
    """Wait for a process's end by its pidfd."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), timeout)
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


def children(pid: int) -> list[int]:
    """A process's children, zombies too."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def proc(pid: int, name: str) -> str:
    """A file of the process in /proc."""
    return Path(f"/proc/{pid}/{name}").read_text()


async def until(condition: Callable[[], bool], *, timeout: float = 20) -> None:
    """Wait for what the kernel has no event for."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
