from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkhead.errors import Internal
from bulkhead.linux import process
from bulkhead.supervisor import spares
from bulkhead.supervisor.spares import SparePool, Zygote, zygote_command
from tests.support.eventually import eventually

_PIDS = Path("/sys/fs/cgroup/pids")

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="its zygote rehearses a container's life: needs root"),
]


def counting(log: Path, cache: Path) -> tuple[str, ...]:
    """The zygote's command, which leaves a line for each start."""
    return ("sh", "-c", f'echo $$ >> {log}; exec "$@"', "sh", *zygote_command(cache))


async def test_a_machine_too_slow_for_the_first_zygote_gets_one_that_may_take_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each were given up after the same time, there would never be a shim on a machine that is starved of CPU."""
    monkeypatch.setattr(spares, "_SPAWN_TIMEOUT", 0.05)
    monkeypatch.setattr(process, "cpu_ticks", lambda _: 7)
    log = tmp_path / "started"
    pool = SparePool(1, counting(log, tmp_path / "cache"))
    async with pool.running():
        # That one's zygote may be given up in its turn, while it rehearses.
        (await pool.take(timeout=60)).discard()
    assert len(log.read_text().split()) > 1


async def test_a_zygote_that_works_is_not_given_up_however_slow_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its work would be for nothing, and the next one would have to do it once more on the same starved machine."""
    asked: list[int] = []

    def ever_more(pid: int) -> int:
        asked.append(pid)
        return len(asked)

    monkeypatch.setattr(spares, "_SPAWN_TIMEOUT", 0.01)
    monkeypatch.setattr(process, "cpu_ticks", ever_more)
    log = tmp_path / "started"
    pool = SparePool(1, counting(log, tmp_path / "cache"))
    async with pool.running():
        (await pool.take(timeout=0)).discard()
    assert log.read_text().split() == [str(asked[0])]
    assert len(asked) > 2


# Its spares are sockets; the second is not to be had before there is a file "rehearsed". "1 made", "1 closed" are told.
_ACTOR = """
import os, select, socket, sys
place, control = sys.argv[1], socket.socket(fileno=int(sys.argv[2]))
spares, number = {}, 0
parent = select.poll()
parent.register(control, 0)
def tell(text):
    with open(f"{place}/told", "a") as file:
        file.write(f"{text}\\n")
while True:
    for ready in select.select([control, *spares], [], [])[0]:
        if ready is not control:
            tell(f"{spares.pop(ready)} closed")
        elif not ready.recv(1):
            sys.exit()
        else:
            number += 1
            while number > 1 and not os.path.exists(f"{place}/rehearsed"):
                if parent.poll(10):
                    sys.exit()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            spares[theirs] = number
            tell(f"{number} made")
            socket.send_fds(control, [b"s"], [ours.fileno()])
            ours.close()
"""


def acting(place: Path) -> tuple[str, ...]:
    """The command of a zygote that rehearses until it is told that it has."""
    (place / "told").touch()
    return (sys.executable, "-c", _ACTOR, str(place))


async def test_there_is_a_spare_before_the_rehearsal_which_is_not_kept_beside_the_others(tmp_path: Path) -> None:
    pool = SparePool(2, acting(tmp_path))
    async with pool.running():
        told = tmp_path / "told"
        assert told.read_text() == "1 made\n"
        (tmp_path / "rehearsed").touch()
        await eventually(lambda: sorted(told.read_text().splitlines()) == ["1 closed", "1 made", "2 made", "3 made"])
        for _ in range(2):
            (await pool.take(timeout=5)).discard()


async def test_who_takes_the_spare_from_before_the_rehearsal_keeps_it(tmp_path: Path) -> None:
    pool = SparePool(1, acting(tmp_path))
    async with pool.running():
        told = tmp_path / "told"
        first = await pool.take(timeout=0)
        (tmp_path / "rehearsed").touch()
        await eventually(lambda: told.read_text().splitlines() == ["1 made", "2 made"])
        (await pool.take(timeout=5)).discard()
        await eventually(lambda: "2 closed" in told.read_text())
        assert "1 closed" not in told.read_text()
        first.discard()
        await eventually(lambda: "1 closed" in told.read_text())


async def test_who_comes_before_the_rehearsal_is_over_waits_for_the_spare_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shim would be ten times as large for as long as its container lives."""
    monkeypatch.setattr(spares, "_HELD", 60)
    pool = SparePool(1, acting(tmp_path))
    async with pool.running():
        taking = asyncio.create_task(pool.take(timeout=60))
        (tmp_path / "rehearsed").touch()
        (await taking).discard()
        await eventually(lambda: {"1 closed", "2 closed"} <= set((tmp_path / "told").read_text().splitlines()))


async def test_a_rehearsal_that_takes_long_holds_nobody_up(tmp_path: Path) -> None:
    """Nor does it outlive who asked for it."""
    pool = SparePool(1, ("sh", "-c", f'echo $$ > {tmp_path}/pid; exec "$@"', "sh", *acting(tmp_path)))
    async with pool.running():
        began = time.monotonic()
        (await pool.take(timeout=60)).discard()
        assert time.monotonic() - began < 10
        assert "2 made" not in (tmp_path / "told").read_text()
    zygote = Path("/proc", (tmp_path / "pid").read_text().strip())
    await eventually(lambda: not zygote.exists())


async def test_a_zygote_that_runs_in_circles_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spares, "_MOST_TICKS", 2)
    zygote = await Zygote.start(("sh", "-c", "while :; do :; done", "sh"))
    try:
        with pytest.raises(Internal, match="cannot fork a spare shim: TimeoutError"):
            await zygote.spawn(timeout=0.05)
    finally:
        await zygote.stop()


@pytest.fixture
def crowd() -> Iterator[Path]:
    """A cgroup whose processes can be limited in number."""
    group = _PIDS / f"bh-crowd-{secrets.token_hex(4)}"
    group.mkdir()
    yield group
    while remains := (group / "cgroup.procs").read_text().split():
        for pid in remains:
            with contextlib.suppress(ProcessLookupError):
                (_PIDS / "cgroup.procs").write_text(pid)
    group.rmdir()


@pytest.mark.skipif(not _PIDS.is_dir(), reason="no pids hierarchy of cgroup v1")
@pytest.mark.parametrize("room", [1, 2], ids=["for nobody", "for the child that would fork the spare"])
async def test_a_host_without_room_for_a_process_gives_a_spare_when_there_is_room(
    tmp_path: Path, crowd: Path, room: int
) -> None:
    log = tmp_path / "log"
    zygote = await Zygote.start(("sh", "-c", f'exec "$@" 2>{log}', "sh", *zygote_command(tmp_path / "cache")))
    try:
        (await zygote.spawn(timeout=10)).discard()
        (crowd / "cgroup.procs").write_text(str(zygote.pid))
        (crowd / "pids.max").write_text(str(room))
        asked = asyncio.create_task(zygote.spawn(timeout=60))
        await eventually(lambda: "cannot fork a spare shim" in log.read_text())
        assert not asked.done()
        (crowd / "pids.max").write_text("max")
        (await asked).discard()
        assert len(log.read_text().splitlines()) == 1
        assert "Resource temporarily unavailable" in log.read_text()
    finally:
        await zygote.stop()
