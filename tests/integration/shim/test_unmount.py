"""The end of a container is told before its root is unmounted, which writes everything that is dirty to the disk."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bulkhead.linux.cgroups import Cgroup
from bulkhead.runtime import planned
from bulkhead.runtime.rootfs import OverlayRootfs
from bulkhead.supervisor.protocol import FREE
from bulkhead.wire.gen.bulkhead.shim import v1 as wire
from tests.integration.shim import bundles
from tests.integration.shim.harness import CONTAINER_ID, Nursery, Shim, connected, until, write_config
from tests.support.loop_disk import LoopDisk, loop_disk, slow_disk

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces and cgroups"),
    pytest.mark.skipif(not os.path.exists("/bin/busybox"), reason="needs a static busybox"),  # noqa: PTH110
]
WRITES = ("sh", "-c", "echo data > /file; sleep 600")


class World:
    """A zygote, and a container whose writable layer is on a disk of its own."""

    def __init__(self, zygote: Nursery, base: Path, disk: LoopDisk) -> None:
        self.disk = disk
        self.written = disk.place / "upper/file"
        self._zygote, self._run, self._data = zygote, base / "run", base / "data"
        self.cgroup = f"/bh-unmount-{uuid.uuid4().hex[:8]}"
        self._config = bundles.config(bundles.make_root(base / "root"), self.cgroup, bundles.process(*WRITES))
        write_config(self._data, self._config)
        self._layers = OverlayRootfs(
            lower=(str(base / "root"),), upper=str(disk.place / "upper"), work=str(disk.place / "work")
        )
        for place in (self._layers.upper, self._layers.work):
            Path(place).mkdir()

    def spare(self) -> tuple[socket.socket, dict[str, Any]]:
        """A shim of the container; the link to it, over which it says that it is free, and what it answered."""
        link = self._zygote.spare()
        link.send(f"{CONTAINER_ID}\0{self._run}\0{self._data}".encode())
        answer: dict[str, Any] = json.loads(link.recv(65536))
        assert "error" not in answer, answer
        return link, answer

    def connected(self, pid: int) -> Any:
        return connected(self._run, self._data, pid)

    async def create(self, shim: Shim) -> None:
        ours = self._layers
        worked_out = planned.container(CONTAINER_ID, self._config, ours)
        assert worked_out is not None
        rootfs = wire.OverlayRootfs(lower=[*ours.lower], upper=ours.upper, work=ours.work)
        assert (await shim.create(rootfs=rootfs, planned=worked_out.pack())).failure is None

    async def run(self, shim: Shim) -> None:
        """Until the container has written to its root."""
        await self.create(shim)
        await shim.client.start()
        await until(self.written.exists)

    def waits_for_the_directories(self) -> bool:
        """Whether anybody does, by the kernel's table of locks: one that waits has "->" before it."""
        inode = str(Path(self._layers.work).stat().st_ino)
        lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        return any(line[1] == "->" and line[6].endswith(f":{inode}") for line in lines)

    def remove(self) -> None:
        """As the manager does, whether or not anybody has it mounted."""
        for place in (self.written, Path(self._layers.work, "work")):
            place.unlink() if place.is_file() else place.rmdir()
        for name in (self._layers.upper, self._layers.work):
            Path(name).rmdir()

    def close(self) -> None:
        assert not Cgroup(self.cgroup).exists()


def last_word(link: socket.socket) -> bytes:
    """After what the shim has confided."""
    while (said := link.recv(65536)).startswith(b"{"):
        pass
    return said


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery((sys.executable, "-m", "bulkhead.supervisor.zygote", str(tmp_path_factory.mktemp("cache"))))
    yield nursery
    nursery.close()


@pytest.fixture
def world(zygote: Nursery, tmp_path: Path) -> Iterator[World]:
    with loop_disk(tmp_path) as disk:
        world = World(zygote, tmp_path, disk)
        yield world
        world.close()


@pytest.fixture
def slow(zygote: Nursery, tmp_path: Path) -> Iterator[tuple[World, LoopDisk]]:
    with slow_disk(tmp_path) as (disk, below):
        world = World(zygote, tmp_path, disk)
        yield world, below
        world.close()


async def test_an_end_is_told_while_the_disk_takes_no_writes(slow: tuple[World, LoopDisk]) -> None:
    """Nobody waits for what is dirty; the directories can be removed, and all is unmounted in the end."""
    world, below = slow
    link, answer = world.spare()
    with link:
        async with world.connected(answer["pid"]) as shim:
            await world.run(shim)
            world.disk.unmount()
            with below.frozen():
                await shim.client.kill(signal.SIGKILL)
                assert (await shim.client.wait(timeout=20)).exit_code == 137
                await shim.client.shutdown()
                assert world.disk.is_in_use()
        assert last_word(link) == FREE
    await until(lambda: not world.disk.is_in_use())


async def test_a_layer_that_is_mounted_still_can_be_removed(world: World) -> None:
    link, answer = world.spare()
    with link:
        async with world.connected(answer["pid"]) as shim:
            await world.run(shim)
            await shim.client.kill(signal.SIGKILL)
            await shim.client.wait(timeout=20)
            world.remove()
            world.disk.unmount()
            assert world.disk.is_in_use()
            await shim.client.shutdown()
        assert last_word(link) == FREE
    await until(lambda: not world.disk.is_in_use())


@pytest.mark.parametrize("is_wanted", [True, False])
async def test_the_next_run_waits_for_the_layer_that_is_mounted_still(
    slow: tuple[World, LoopDisk], is_wanted: bool
) -> None:
    """Whether the earlier shim is to be a spare again or ends."""
    world, below = slow
    link, answer = world.spare()
    if not is_wanted:
        link.close()
    async with world.connected(answer["pid"]) as shim:
        await world.run(shim)
        with below.frozen():
            await shim.client.kill(signal.SIGKILL)
            await shim.client.wait(timeout=20)
            await shim.client.shutdown()
            second, answer = world.spare()
            with second:
                async with world.connected(answer["pid"]) as again:
                    creating = asyncio.ensure_future(world.create(again))
                    await until(world.waits_for_the_directories)
                    assert not creating.done()
                    below.thaw()
                    await creating
    link.close()


async def test_a_shim_that_nobody_has_leave_unmounts_by_itself(world: World) -> None:
    link, answer = world.spare()
    with link:
        async with world.connected(answer["pid"]) as shim:
            await world.run(shim)
            await shim.client.kill(signal.SIGKILL)
            await shim.client.wait(timeout=20)
            world.disk.unmount()
            assert world.disk.is_in_use()
            await until(lambda: not world.disk.is_in_use())
            assert (await shim.client.state()).phase == "exited"


@pytest.mark.parametrize("has_ended", [False, True])
async def test_a_shim_that_is_killed_leaves_nothing_mounted(world: World, has_ended: bool) -> None:
    link, answer = world.spare()
    with link:
        async with world.connected(answer["pid"]) as shim:
            await world.create(shim)
            if has_ended:
                await shim.client.kill(signal.SIGKILL)
                await shim.client.wait(timeout=20)
            world.disk.unmount()
            os.kill(answer["pid"], signal.SIGKILL)
            await until(lambda: not world.disk.is_in_use())
    Cgroup(world.cgroup).remove()
