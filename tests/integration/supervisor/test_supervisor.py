from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from bulkhead import failpoints
from bulkhead.errors import InvalidArgument, Unavailable
from bulkhead.linux.process import start_time, title
from bulkhead.model.instance import Instance
from bulkhead.wire.ttrpc_client import ShimClient, TtrpcClient
from tests.integration.shim.harness import alive, children, descriptors, gone
from tests.integration.supervisor.conftest import Service, begin, running, start
from tests.integration.supervisor.spares import is_taught, spares_of
from tests.support.eventually import eventually

IDS = [f"{number:x}" * 64 for number in range(1, 16)]


async def phase(instance: Instance, container_id: str) -> str:
    async with TtrpcClient(instance.shim_socket(container_id)) as client:
        return (await ShimClient(client).state()).phase


async def shutdown(instance: Instance, *container_ids: str) -> None:
    for container_id in container_ids:
        async with TtrpcClient(instance.shim_socket(container_id)) as client:
            pid = (await ShimClient(client).state()).shim_pid
            await ShimClient(client).shutdown()
            await left(pid, container_id)


async def left(pid: int, container_id: str) -> None:
    """Wait until a shim is no longer the container's: it has ended, or is a spare again."""
    await eventually(lambda: title(pid) != f"bulkhead-shim: {container_id[:12]}")


async def test_launch_answers_a_shim_that_listens(service: Service) -> None:
    answer = await service.launch(IDS[0])
    assert answer.start_time == start_time(answer.pid)
    assert await phase(service.instance, IDS[0]) == "new"
    assert service.instance.stdio_socket(IDS[0]).is_socket()
    assert service.instance.container_run(IDS[0]).stat().st_mode & 0o777 == 0o700
    await shutdown(service.instance, IDS[0])


async def test_a_launch_right_at_the_start_gives_a_shim_as_small_as_any(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The spare from before the rehearsal has ten times the memory, for as long as the container lives."""
    with running(tmp_path_factory.mktemp("s"), begin) as service:
        began = time.monotonic()
        answer = await service.launch(IDS[0])
        assert is_taught(answer.pid) or time.monotonic() - began > 1
        await shutdown(service.instance, IDS[0])


async def test_a_live_shim_is_answered_as_it_is(service: Service) -> None:
    first = await service.launch(IDS[0])
    assert await service.launch(IDS[0]) == first
    await shutdown(service.instance, IDS[0])
    again = await service.launch(IDS[0])
    assert await phase(service.instance, IDS[0]) == "new"
    assert await service.launch(IDS[0]) == again
    await shutdown(service.instance, IDS[0])


async def test_concurrent_launches_of_one_container_give_one_shim(service: Service) -> None:
    answers = await asyncio.gather(*(service.launch(IDS[0]) for _ in range(8)))
    assert len({answer.pid for answer in answers}) == 1
    await shutdown(service.instance, IDS[0])


async def test_many_launches_at_once(service: Service) -> None:
    # More than there are spares: the rest wait for forks, nobody is refused.
    async with contextlib.AsyncExitStack() as clients:

        async def launched(container_id: str) -> int:
            answer = await service.launch(container_id)
            # Left alone it ends before a busy machine has the last of them.
            await clients.enter_async_context(TtrpcClient(service.instance.shim_socket(container_id)))
            return answer.pid

        pids = await asyncio.gather(*map(launched, IDS))
    assert len(set(pids)) == len(IDS)
    await shutdown(service.instance, *IDS)


async def test_shims_outlive_a_supervisor_that_is_killed(own_service: Service) -> None:
    instance = own_service.instance
    answer = await own_service.launch(IDS[0])
    (zygote,) = own_service.children()
    # The launch took one; another is being forked.
    await eventually(lambda: len(spares_of(zygote)) == 2)
    spares = spares_of(zygote)
    assert not [pid for spare in spares for pid in children(spare)]
    # It leaves when nobody is with it for as long as all that takes on a busy machine.
    async with TtrpcClient(instance.shim_socket(IDS[0])):
        own_service.process.kill()
        for pid in (zygote, *spares):
            await gone(pid)
        own_service.process.wait()
        assert await phase(instance, IDS[0]) == "new"
        successor = start(instance)
        assert await successor.launch(IDS[0]) == answer
    await shutdown(instance, IDS[0])
    assert successor.stop() == 0


async def test_a_killed_zygote_is_replaced_and_its_spares_go(own_service: Service) -> None:
    answer = await own_service.launch(IDS[0])
    (zygote,) = own_service.children()
    spares = spares_of(zygote)
    left, another = (own_service.instance.run / "cache" / f"rehearsal-{pid}" for pid in (zygote, os.getpid()))
    for each in (left, another):
        (each / "upper").mkdir(parents=True)
    async with TtrpcClient(own_service.instance.shim_socket(IDS[0])):
        os.kill(zygote, signal.SIGKILL)
        for pid in (zygote, *spares):
            await gone(pid)
        other = await own_service.launch(IDS[1])
        assert alive(answer.pid)
        assert other.pid not in spares
    assert not left.exists()
    assert another.exists()
    await shutdown(own_service.instance, IDS[0], IDS[1])


async def test_a_spare_that_was_killed_is_passed_over(service: Service) -> None:
    (zygote,) = service.children()
    for pid in spares_of(zygote):
        os.kill(pid, signal.SIGKILL)
        await gone(pid)
    await service.launch(IDS[0])
    await shutdown(service.instance, IDS[0])


async def test_a_polite_end_leaves_no_process_but_shims(own_service: Service) -> None:
    await own_service.launch(IDS[0])
    (zygote,) = own_service.children()
    spares = spares_of(zygote)
    async with TtrpcClient(own_service.instance.shim_socket(IDS[0])):
        assert own_service.stop() == 0
        for pid in (zygote, *spares):
            await gone(pid)
    assert not own_service.instance.supervisor_socket.exists()
    await shutdown(own_service.instance, IDS[0])


def _sockets(pid: int) -> int:
    return sum(name.startswith("socket:") for name in descriptors(pid))


async def test_a_shim_holds_nothing_of_the_supervisor(service: Service) -> None:
    answer = await service.launch(IDS[0])
    async with TtrpcClient(service.instance.shim_socket(IDS[0])) as client:
        await ShimClient(client).state()
        # /dev/null three times, the stage, the zygote's memory, the likeness, epoll, lock, the wakeup pipe, sockets:
        # two listeners, our connection, and the link to whoever has its spares, and keeps duplicates for it.
        # And the network namespace of the container that is to come.
        assert _sockets(answer.pid) == 4
        assert len(descriptors(answer.pid)) == 15
        held = descriptors(answer.pid)
        mine = descriptors(service.process.pid)
        sockets = {name for name in held if name.startswith(("socket:", "pipe:"))}
        assert not sockets & set(mine)
        assert not [name for name in held if name.endswith(".log")]
    await shutdown(service.instance, IDS[0])


async def test_a_wiped_run_directory_brings_the_same_shim_back(service: Service) -> None:
    answer = await service.launch(IDS[0])
    run = service.instance.container_run(IDS[0])
    for path in run.iterdir():
        path.unlink()
    run.rmdir()
    assert await service.launch(IDS[0]) == answer
    await shutdown(service.instance, IDS[0])


async def test_a_stale_socket_file_is_replaced(service: Service) -> None:
    answer = await service.launch(IDS[0])
    os.kill(answer.pid, signal.SIGKILL)
    await gone(answer.pid)
    assert service.instance.shim_socket(IDS[0]).exists()
    assert (await service.launch(IDS[0])).pid != answer.pid
    await shutdown(service.instance, IDS[0])


async def test_a_stopped_shim_is_said_to_be_away_and_not_replaced(service: Service) -> None:
    answer = await service.launch(IDS[0])
    os.kill(answer.pid, signal.SIGSTOP)
    with pytest.raises(Unavailable, match="does not answer"):
        await service.launch(IDS[0])
    os.kill(answer.pid, signal.SIGCONT)
    assert await service.launch(IDS[0]) == answer
    await shutdown(service.instance, IDS[0])


def set_failpoints(instance: Instance, text: str) -> Path:
    """For shims that are given their container from now on; the trace of those that did something."""
    place = instance.run / failpoints.DIRECTORY
    place.mkdir(mode=0o700, exist_ok=True)
    (place / failpoints.TRACE).touch()
    (place / failpoints.SET).write_text(text)
    return place / failpoints.TRACE


async def test_what_a_zygote_rehearses_passes_no_failpoint(own_service: Service) -> None:
    trace = set_failpoints(own_service.instance, "*=print")
    (zygote,) = own_service.children()
    os.kill(zygote, signal.SIGKILL)
    await eventually(lambda: own_service.children() not in ([], [zygote]))
    # The spares of the dead one are used up first.
    shims = set[int]()
    async with contextlib.AsyncExitStack() as clients:
        for container_id in IDS[:3]:
            shims.add((await own_service.launch(container_id)).pid)
            # Left alone it ends before a busy machine has the last of them.
            await clients.enter_async_context(TtrpcClient(own_service.instance.shim_socket(container_id)))
    passed = {int(line.split()[0]) for line in trace.read_text().splitlines() if " shim." in line}
    assert passed == shims
    for container_id in IDS[:3]:
        await shutdown(own_service.instance, container_id)


@pytest.mark.parametrize("point", ["shim.claim.locked", "shim.claim.claimed"])
async def test_a_shim_that_hangs_as_it_takes_its_container_is_ended_and_replaced(
    own_service: Service, point: str
) -> None:
    """Before it has written its record, and behind that: the lock's table, and the record, tell who it is."""
    trace = set_failpoints(own_service.instance, f"{point}=1*delay(600000)")
    first = asyncio.create_task(own_service.launch(IDS[0]))
    await eventually(lambda: point in trace.read_text())
    hanging = int(trace.read_text().split(f" {point}")[0].splitlines()[-1])
    first.cancel()
    answer = await own_service.launch(IDS[0])
    assert answer.pid != hanging
    assert not alive(hanging)
    assert await phase(own_service.instance, IDS[0]) == "new"
    await shutdown(own_service.instance, IDS[0])


@pytest.mark.parametrize("container_id", ["", "abc", "../../../../x", "A" * 64, "a" * 65, "a" * 63 + "/"])
async def test_what_is_no_container_id_is_refused(service: Service, container_id: str) -> None:
    with pytest.raises(InvalidArgument, match="no container id"):
        await service.launch(container_id, config=False)


async def test_a_missing_bundle_directory_is_told(service: Service) -> None:
    with pytest.raises(Unavailable, match="cannot open"):
        await service.launch("0" * 64, config=False)
    # And the supervisor goes on.
    await service.launch(IDS[1])
    await shutdown(service.instance, IDS[1])
