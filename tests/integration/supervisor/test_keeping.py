"""What the supervisor keeps for shims."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

from bulkhead.linux import fdpass
from bulkhead.supervisor.keeping import Keeping
from bulkhead.supervisor.protocol import FREE
from bulkhead.supervisor.spares import Spare, Zygote
from tests.support.eventually import eventually

ID = "ab" * 32


async def test_a_shim_is_followed_once_there_is_a_descriptor_for_it(tmp_path: Path) -> None:
    """Its supervisor does not end of having none."""
    place = tmp_path / "stdio.sock"
    followed = asyncio.Event()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    keeping = Keeping(tmp_path / "containers")
    async with await asyncio.start_unix_server(lambda *_: followed.set(), place), keeping.running():
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            keeping.follow(str(place))
            await asyncio.sleep(0)
            assert not followed.is_set()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await asyncio.wait_for(followed.wait(), 30)


@contextlib.asynccontextmanager
async def confiding(keeping: Keeping, place: Path) -> AsyncIterator[socket.socket]:
    """A shim's end of the link to a supervisor that keeps for it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    spare = Spare(ours, cast(Zygote, object()))
    spare.confides = True
    with theirs:
        keeping.keep(ID, str(place), spare)
        yield theirs
    spare.discard()


def tell(link: socket.socket, data: Path, *names: str) -> None:
    """What there is to keep now: a descriptor of the directory for each name."""
    told = {"id": ID, "data_dir": str(data), "pid": 1, "start_time": 1, "names": names}
    held = [os.open(data, os.O_RDONLY) for _ in names]
    fdpass.send(link, json.dumps(told).encode(), held)
    for each in held:
        os.close(each)


def kept(keeping: Keeping) -> list[str]:
    estate = keeping.estate(ID)
    return [] if estate is None else list(estate.descriptors)


async def test_what_is_told_over_the_link_is_kept_until_it_is_taken_back(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path)
    async with keeping.running(), confiding(keeping, tmp_path / "stdio.sock") as link:
        tell(link, tmp_path, "pid", "stdout")
        await eventually(lambda: kept(keeping) == ["pid", "stdout"])
        tell(link, tmp_path)
        await eventually(lambda: kept(keeping) == [])
        link.send(FREE)
        await eventually(lambda: not keeping.hears(str(tmp_path / "stdio.sock")))


async def test_nothing_is_kept_for_a_shim_that_has_left(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path)
    async with keeping.running(), confiding(keeping, tmp_path / "stdio.sock") as link:
        tell(link, tmp_path, "pid", "stdout")
        await eventually(lambda: kept(keeping) == ["pid", "stdout"])
        link.send(FREE)
        await eventually(lambda: kept(keeping) == [])


async def test_a_dead_shims_last_words_are_heard_out(tmp_path: Path) -> None:
    """Its successor is given all that it has told, not what had been read by then."""
    (tmp_path / "shim.json").touch()
    keeping = Keeping(tmp_path)
    async with keeping.running(), confiding(keeping, tmp_path / "stdio.sock") as link:
        tell(link, tmp_path, "pid")
        tell(link, tmp_path, "pid", "stdout")
        link.close()
        await keeping.hear_out(str(tmp_path / "stdio.sock"))
        assert kept(keeping) == ["pid", "stdout"]


async def test_a_shim_whose_link_fails_is_dialled(tmp_path: Path) -> None:
    """Whoever is alive has more to tell."""
    place, dialled = tmp_path / "stdio.sock", asyncio.Event()
    keeping = Keeping(tmp_path / "containers")
    async with await asyncio.start_unix_server(lambda *_: dialled.set(), place), keeping.running():
        async with confiding(keeping, place) as link:
            link.shutdown(socket.SHUT_RDWR)
            await asyncio.wait_for(dialled.wait(), 30)


async def test_a_predecessors_words_are_not_the_successors(tmp_path: Path) -> None:
    """One that has left its container may still have to end execs, while the container runs again."""
    place = tmp_path / "stdio.sock"
    keeping = Keeping(tmp_path)
    async with keeping.running(), confiding(keeping, place) as before, confiding(keeping, place) as after:
        tell(after, tmp_path, "pid")
        await eventually(lambda: kept(keeping) == ["pid"])
        tell(before, tmp_path)
        before.send(FREE)
        tell(after, tmp_path, "pid", "stdout")
        await eventually(lambda: kept(keeping) == ["pid", "stdout"])
        assert keeping.hears(str(place))
