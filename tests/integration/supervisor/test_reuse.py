"""A shim that has left its container is a spare again, if nothing is left of that life; whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from bulkhead import failpoints
from bulkhead.errors import DeadlineExceeded, Unavailable
from bulkhead.linux.process import title
from bulkhead.model.instance import Instance
from bulkhead.shim.identity import Identity
from bulkhead.supervisor import spares
from bulkhead.supervisor.protocol import FREE
from bulkhead.supervisor.spares import Spare, SparePool, Zygote, zygote_command
from bulkhead.wire.ttrpc_client import ShimClient, TtrpcClient
from tests.integration.shim.harness import alive, descriptors, gone
from tests.integration.supervisor.conftest import Service, start
from tests.integration.supervisor.spares import spares_of
from tests.support.eventually import eventually

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="its zygote rehearses a container's life: needs root"),
]
SPARE = "bulkhead-zygote"
# Of the default size, and those that were shims.
MOST_SPARES = 2 + 8
# KiB
LEAST_COPIED = 3 << 10


def container_id(number: int) -> str:
    return f"{number:02x}" * 32


async def launched(service: Service, number: int) -> int:
    """A shim of a zygote that has taught it, so that nothing speaks against another life."""
    await taught(service)
    return (await service.launch(container_id(number))).pid


async def taught(service: Service) -> None:
    """The one that was forked before the rehearsal is not kept beside the others."""
    (zygote,) = service.children()
    await eventually(lambda: len(spares_of(zygote)) >= 2)


async def shutdown(instance: Instance, number: int) -> None:
    async with TtrpcClient(instance.shim_socket(container_id(number))) as client:
        await ShimClient(client).shutdown()
        # However long we stay, it does not.
        await asyncio.wait_for(asyncio.shield(client.closed), 20)


async def life(service: Service, number: int) -> int:
    pid = await launched(service, number)
    await shutdown(service.instance, number)
    return pid


def fail(instance: Instance, text: str) -> Path:
    """For shims that are given their container from now on."""
    place = instance.run / failpoints.DIRECTORY
    place.mkdir(mode=0o700, exist_ok=True)
    (place / failpoints.TRACE).touch()
    (place / failpoints.SET).write_text(text)
    return place / failpoints.TRACE


async def test_a_shim_that_was_left_by_its_container_is_the_next_ones(own_service: Service) -> None:
    await taught(own_service)
    (zygote,) = own_service.children()
    before = {pid: kinds(pid) for pid in spares_of(zygote)}
    first = await life(own_service, 1)
    await eventually(lambda: title(first) == SPARE)
    await eventually(lambda: kinds(first) == before[first])
    data = own_service.instance.container_data(container_id(1))
    assert not (data / "shim.json").exists()
    assert not own_service.instance.container_run(container_id(1)).exists()
    assert title(await again(own_service, first, 2)) == f"bulkhead-shim: {container_id(2)[:12]}"
    await shutdown(own_service.instance, 2)


async def test_a_spare_that_nobody_wants_gives_back_what_it_has_copied_and_lives_all_the_same(
    own_service: Service,
) -> None:
    """Megabytes each, made for a life that may not come for days."""
    await taught(own_service)
    (zygote,) = own_service.children()
    waiting = spares_of(zygote)
    assert all(copied(pid) > LEAST_COPIED for pid in waiting)
    await eventually(lambda: all(copied(pid) < LEAST_COPIED for pid in waiting))
    pid = await life(own_service, 1)
    assert pid in waiting
    await eventually(lambda: title(pid) == SPARE)
    await again(own_service, pid, 2)
    await shutdown(own_service.instance, 2)


def copied(pid: int) -> int:
    """KiB of memory that it shares with nobody."""
    found = re.search(r"^RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def kinds(pid: int) -> list[str]:
    return sorted(name.split("[")[0] for name in descriptors(pid))


async def again(service: Service, pid: int, number: int) -> int:
    """Launch containers from `number` on until one is given this shim; nobody else waits for long."""
    await eventually(lambda: title(pid) == SPARE)
    async with asyncio.timeout(20):
        while (found := (await service.launch(container_id(number))).pid) != pid:
            # It has not told the supervisor yet.
            await shutdown(service.instance, number)
    return found


@pytest.mark.parametrize("setting", ["shim.claim.locked=1*delay(1)", "shim.leave.cleared=1*delay(1)"])
async def test_who_was_struck_on_purpose_ends(own_service: Service, setting: str) -> None:
    fail(own_service.instance, setting)
    await gone(await life(own_service, 1))


async def test_whose_data_directory_cannot_be_given_back_ends(own_service: Service) -> None:
    """An error that nobody has foreseen is in its journal."""
    pid = await launched(own_service, 1)
    data = own_service.instance.container_data(container_id(1))
    (data / "shim.json").unlink()
    (data / "shim.json").mkdir()
    async with TtrpcClient(own_service.instance.shim_socket(container_id(1))) as client:
        with pytest.raises(Exception, match="Is a directory"):
            await ShimClient(client).shutdown()
    await gone(pid)
    (data / "shim.json").rmdir()
    await life(own_service, 1)


async def test_who_was_called_because_nobody_reached_it_ends_with_its_container(own_service: Service) -> None:
    """Who called may kill next, and a shim that has left must not listen in the container's place again."""
    pid = await launched(own_service, 1)
    run = own_service.instance.container_run(container_id(1))
    (run / "shim.sock").unlink()
    os.kill(pid, signal.SIGUSR1)
    await eventually((run / "shim.sock").exists)
    await shutdown(own_service.instance, 1)
    await gone(pid)
    assert not run.exists()


async def test_who_was_given_up_while_it_hung_ends(own_service: Service) -> None:
    """Who has given it up may be about to kill it."""
    pid = await launched(own_service, 1)
    os.kill(pid, signal.SIGSTOP)
    async with TtrpcClient(own_service.instance.shim_socket(container_id(1))) as client:
        with pytest.raises(DeadlineExceeded):
            await ShimClient(client).shutdown(timeout=0.1)
    os.kill(pid, signal.SIGCONT)
    await gone(pid)


@pytest.mark.parametrize("point", ["shim.retire.begun", "shim.retire.clean", "shim.retire.told"])
async def test_who_dies_on_the_way_to_be_a_spare_is_nobodys(own_service: Service, point: str) -> None:
    fail(own_service.instance, f"{point}=1*kill")
    await gone(await life(own_service, 1))
    other = await launched(own_service, 1)
    assert alive(other)
    await shutdown(own_service.instance, 1)


async def test_a_shim_that_is_killed_as_a_spare_is_passed_over(own_service: Service) -> None:
    first = await life(own_service, 1)
    await again(own_service, first, 2)
    await shutdown(own_service.instance, 2)
    await eventually(lambda: title(first) == SPARE)
    os.kill(first, signal.SIGKILL)
    await gone(first)
    assert await launched(own_service, 3) != first
    await shutdown(own_service.instance, 3)


async def test_a_supervisor_that_dies_as_a_shim_comes_back_takes_it_along(own_service: Service) -> None:
    pid = await launched(own_service, 1)
    fail(own_service.instance, "supervisor.spare.returned=1*kill")
    os.kill(own_service.process.pid, signal.SIGUSR2)
    await shutdown(own_service.instance, 1)
    own_service.process.wait(20)
    await gone(pid)
    successor = start(own_service.instance)
    await life(successor, 1)
    assert successor.stop() == 0


async def test_without_the_supervisor_that_made_it_a_shim_ends_with_its_container(own_service: Service) -> None:
    pid = await launched(own_service, 1)
    # It leaves when nobody is with it for as long as the next supervisor takes on a busy machine.
    async with TtrpcClient(own_service.instance.shim_socket(container_id(1))):
        own_service.process.kill()
        own_service.process.wait()
        successor = start(own_service.instance)
        assert (await successor.launch(container_id(1))).pid == pid
    await shutdown(own_service.instance, 1)
    await gone(pid)
    assert successor.stop() == 0


async def test_a_shim_of_a_zygote_that_is_no_more_ends_with_its_container(own_service: Service) -> None:
    """The next zygote may be of other code."""
    pid = await launched(own_service, 1)
    (zygote,) = own_service.children()
    async with TtrpcClient(own_service.instance.shim_socket(container_id(1))):
        os.kill(zygote, signal.SIGKILL)
        await gone(zygote)
        await eventually(lambda: own_service.children() not in ([], [zygote]))
    await shutdown(own_service.instance, 1)
    await gone(pid)


async def test_who_waits_in_vain_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spares, "_WAIT", 0.1)
    pool = SparePool(1, zygote_command(tmp_path / "cache"))
    async with pool.running():
        assert pool.zygote_pid is not None
        taken = [await pool.take(timeout=20) for _ in range(4)]
        zygote = pool.zygote_pid
        await eventually(lambda: len(spares_of(zygote)) == len(taken) + 1)
        for each in taken:
            pool._wait(each)
        await eventually(lambda: len(spares_of(zygote)) == 1)


class Links:
    """Spares whose other ends are here."""

    def __init__(self, pool: SparePool) -> None:
        self.pool = pool
        self._zygote = pool._zygote = cast(Zygote, object())
        self.theirs: dict[Spare, socket.socket] = {}

    def spare(self) -> Spare:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        spare = Spare(ours, self._zygote)
        self.theirs[spare] = theirs
        return spare

    def is_kept(self, spare: Spare) -> bool:
        """Whether the pool has not hung up on it."""
        poll = select.poll()
        poll.register(self.theirs[spare], 0)
        return not poll.poll(0)

    def close(self) -> None:
        for spare, theirs in self.theirs.items():
            spare.discard()
            theirs.close()


@pytest.fixture
async def links(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Links]:
    monkeypatch.setattr(spares, "_WAIT", 3600)
    made = Links(SparePool(MOST_SPARES - 8, ("false",)))
    yield made
    made.close()


async def returned(links: Links, said: bytes) -> Spare:
    """One that was a shim and has said this, heard by the pool."""
    spare = links.spare()
    links.pool.expect(spare)
    links.theirs[spare].send(said)
    await eventually(lambda: spare not in links.pool._at_work)
    return spare


async def test_so_many_are_kept_and_no_more(links: Links) -> None:
    kept = [await returned(links, FREE) for _ in range(MOST_SPARES)]
    one_more = await returned(links, FREE)
    assert [links.is_kept(spare) for spare in kept] == [True] * MOST_SPARES
    assert not links.is_kept(one_more)
    assert await links.pool.take(timeout=1) is kept[-1]
    assert links.is_kept(await returned(links, FREE))


async def test_who_says_that_it_is_something_else_is_not_kept(links: Links) -> None:
    assert not links.is_kept(await returned(links, b"?"))


async def test_a_spare_that_speaks_unasked_is_passed_over(links: Links) -> None:
    quiet, talker = await returned(links, FREE), await returned(links, FREE)
    assert quiet.waits() and talker.waits()
    links.theirs[talker].send(b"?")
    assert not talker.waits()
    assert await links.pool.take(timeout=1) is quiet
    assert not links.is_kept(talker)


async def test_a_spare_that_was_let_go_of_is_nobodys_shim(links: Links, tmp_path: Path) -> None:
    spare = links.spare()
    spare.discard()
    with pytest.raises(Unavailable, match="does not answer"):
        await spare.become(Identity("ab" * 32, str(tmp_path / "r"), str(tmp_path / "d")), timeout=5)
