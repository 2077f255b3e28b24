"""A log that cannot be written must never be the reason why a container stands still (moby 27957, containerd 9342)."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import select
import struct
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkhead.errors import ResourceExhausted, Unavailable
from bulkhead.linux import overlay
from bulkhead.wire.gen.bulkhead.shim import v1 as wire
from tests.integration.shim.conftest import Launch
from tests.integration.shim.harness import FAKE, Nursery, become, connected, script, until, write_config

SIZE = 8 << 20


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Nursery, Path]]:
    """A nursery in a mount namespace of its own, where `disk` is a tiny tmpfs; nothing is mounted for others."""
    if os.geteuid() != 0:
        pytest.skip("mounts a tmpfs")
    disk = tmp_path_factory.mktemp("disk")
    mount = f'mount -t tmpfs -o size={SIZE},nr_inodes=100 tmpfs {disk} && exec "$@"'
    nursery = Nursery(("unshare", "-m", "--propagation", "private", "sh", "-c", mount, "sh", *FAKE))
    nursery.spare().close()
    yield nursery, disk
    nursery.close()


def seen(nursery: Nursery, path: Path) -> Path:
    """The path as the nursery sees it."""
    return Path(f"/proc/{nursery.process.pid}/root{path}")


def fill(disk: Path) -> Path:
    """Use up the file system."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return filler


async def test_a_full_disk_costs_lines_and_says_how_many(small_disk: tuple[Nursery, Path], tmp_path: Path) -> None:
    nursery, disk = small_disk
    data, log = seen(nursery, disk / "one"), seen(nursery, disk / "one/log.json")
    write_config(data, script("read x; seq 1 60000; echo written >&2; read x; echo again"))
    answer = become(nursery.spare(), tmp_path / "run", disk / "one")
    async with connected(tmp_path / "run", data, answer["pid"]) as shim:
        options = wire.LogOptions(driver="json-file", path=str(disk / "one/log.json"))
        stream = await shim.attach(stdout=False)
        assert (await shim.create(log=options, open_stdin=True)).failure is None
        await shim.client.start()
        filler = fill(seen(nursery, disk))
        stream.writer.write(b"\n")
        # The container has got rid of 5 MB of log although nothing could be written.
        assert await stream.frame() == (2, b"written\n")
        assert len(log.read_bytes()) < 1 << 20
        filler.unlink()
        await until(lambda: b"of log were lost" in log.read_bytes())
        stream.writer.write(b"\n")
        assert (await shim.client.wait(timeout=20)).exit_code == 0
        records = [json.loads(line) for line in log.read_bytes().splitlines()]
        marker = next(record for record in records if "bulkhead:" in record["log"])
        lost = int(marker["log"].split()[1])
        assert "No space left on device" in marker["log"]
        # Every line is there or counted, and none is torn.
        assert len(records) - 1 + lost == 60_002
        assert records[-1]["log"] == "again\n"
        assert json.loads((data / "exit.json").read_text())["exit_code"] == 0


async def test_an_exit_is_recorded_on_a_full_disk(small_disk: tuple[Nursery, Path], tmp_path: Path) -> None:
    nursery, disk = small_disk
    data = seen(nursery, disk / "two")
    write_config(data, script("read x; exit 7"))
    answer = become(nursery.spare(), tmp_path / "run", disk / "two")
    async with connected(tmp_path / "run", data, answer["pid"]) as shim:
        stream = await shim.attach()
        await shim.create(log=None, open_stdin=True)
        await shim.client.start()
        filler = fill(seen(nursery, disk))
        stream.writer.write(b"\n")
        # Its blocks were taken at create.
        assert (await shim.client.wait(timeout=20)).exit_code == 7
        assert json.loads((data / "exit.json").read_text())["exit_code"] == 7
        filler.unlink()


async def test_create_on_a_full_disk_is_refused_with_nothing_left(
    small_disk: tuple[Nursery, Path], tmp_path: Path
) -> None:
    nursery, disk = small_disk
    data = seen(nursery, disk / "three")
    write_config(data, script("true"))
    answer = become(nursery.spare(), tmp_path / "run", disk / "three")
    async with connected(tmp_path / "run", data, answer["pid"]) as shim:
        filler = fill(seen(nursery, disk))
        with pytest.raises(ResourceExhausted, match="No space left on device: docker system prune frees"):
            await shim.create(log=None)
        assert (await shim.client.state()).phase == "new"
        assert sorted(path.name for path in data.iterdir()) == ["config.json", "shim.json"]
        filler.unlink()
        assert (await shim.run(log=None)).exit_code == 0


async def test_a_disk_that_hangs_holds_the_container_only_for_a_while(launch: Launch) -> None:
    # A FIFO with nobody reading stands for the disk: write(2) does not return.
    text = "yes 'some line of text' | head -n 400000; echo over >&2; read x"
    async with launch(script(text, patience=0.5)) as shim:
        os.mkfifo(shim.log)
        disk = os.open(shim.log, os.O_RDWR)
        stream = await shim.attach(stdout=False)
        await shim.create(open_stdin=True)
        await shim.client.start()
        # The first write that takes long is made by the loop itself: let that one through, slowly.
        select.select([disk], [], [])
        await asyncio.sleep(0.2)
        passed = 0
        while passed < 3 << 20:
            passed += len(os.read(disk, 64 << 10))
        assert await stream.frame() == (2, b"over\n")
        assert (await shim.client.state()).phase == "running"
        await shim.client.kill(9)
        assert (await shim.client.wait(timeout=20)).exit_code == 137
        os.close(disk)


def waiting(fifo: int) -> int:
    """How many bytes are in it."""
    return int(struct.unpack("i", fcntl.ioctl(fifo, termios.FIONREAD, bytes(4)))[0])


async def test_a_slow_disk_loses_nothing(launch: Launch) -> None:
    async with launch(script("seq 1 30000", patience=60.0)) as shim:
        os.mkfifo(shim.log)
        disk = os.open(shim.log, os.O_RDWR | os.O_NONBLOCK)
        await shim.create()
        await shim.client.start()
        await until(lambda: waiting(disk) > 60 << 10)  # it is full
        received, lines = bytearray(), 0
        async with asyncio.timeout(30):
            while lines < 30_000:
                await asyncio.to_thread(select.select, [disk], [], [], 30)
                more = os.read(disk, 32 << 10)
                lines += more.count(b"\n")
                received += more
        assert [int(json.loads(line)["log"]) for line in received.splitlines()] == list(range(1, 30_001))
        assert (await shim.client.wait(timeout=20)).exit_code == 0
        os.close(disk)


async def test_a_root_that_stays_mounted_for_long_is_told_of_and_the_shim_answers(
    launch: Launch, tmp_path: Path
) -> None:
    """The disk still writes what the last run has left: who starts the container again is told so in time."""
    work = tmp_path / "work"
    work.mkdir()
    rootfs = wire.OverlayRootfs(lower=[str(tmp_path)], upper=str(tmp_path / "upper"), work=str(work))
    async with launch(script("exit 3")) as shim:
        assert (await shim.run()).exit_code == 3
        await shim.client.shutdown()
    mounted = overlay.lock_in_use(str(work))
    async with launch(script("exit 4")) as shim:
        with pytest.raises(Unavailable, match="the disk is still writing what its last run left, try again"):
            await shim.create(rootfs=rootfs)
        told = await shim.client.state()
        assert (told.phase, told.exit_code) == ("exited", 3)
        os.close(mounted)
        assert (await shim.run(rootfs=rootfs)).exit_code == 4
