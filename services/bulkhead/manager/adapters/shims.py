"""Shims as processes: launched by the supervisor over gRPC, spoken to in ttrpc, ended by Shutdown or, if need be, KILL.

One connection per container is kept; it closes when the shim is gone, which fails the calls in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog
from grpclib.client import Channel

from bulkhead import failpoints
from bulkhead.content.blocking import to_its_end
from bulkhead.errors import Conflict, DeadlineExceeded, Internal, LaunchFailed, Unavailable
from bulkhead.linux import atomicfile, process
from bulkhead.linux.cgroups import Cgroup
from bulkhead.manager.adapters.exec_news import ExecNews, known_execs
from bulkhead.manager.bundles import read_json
from bulkhead.manager.ports import (
    AskedExec,
    Bundle,
    Created,
    ExecState,
    Exit,
    Expecting,
    KnownExec,
    Lasting,
    Shim,
    ShimState,
    SupervisorAway,
)
from bulkhead.model.execs import Exec
from bulkhead.model.health import Health, decode_health
from bulkhead.model.instance import SHIM_SOCKET, Instance
from bulkhead.model.losses import Loss
from bulkhead.model.network import Relay
from bulkhead.model.shim_protocol import KEEPS_EXECS, TELLS_NEW_EXECS, check_protocol
from bulkhead.wire import ended_execs
from bulkhead.wire.client import PeerAway, channel, stub
from bulkhead.wire.convert import to_message
from bulkhead.wire.gen.bulkhead.shim import v1 as wire
from bulkhead.wire.gen.bulkhead.supervisor.v1 import LaunchRequest, SupervisorStub
from bulkhead.wire.ttrpc_client import Posted, ShimClient, TtrpcClient

log = structlog.get_logger()
LAUNCH_SECONDS = 15.0
CONNECT_SECONDS = 3.0
SHUTDOWN_SECONDS = 10.0
KILL_SECONDS = 5.0
DEATH_SECONDS = 5.0
SHIM_RECORD, TASK_RECORD = "shim.json", "task.json"
# Written by the shim alone.
_ALONE = (SHIM_RECORD, TASK_RECORD)
# Beside the bundle: what a shim takes along, or was writing.
_TRACES = (SHIM_RECORD, *(atomicfile.unfinished(name) for name in _ALONE))
_encode = msgspec.json.Encoder().encode
_decode_exec = msgspec.json.Decoder(Exec).decode
# Of a record that a shim keeps.
_LARGEST_RECORD = 16 << 10
_decode_losses = msgspec.json.Decoder(tuple[Loss, ...]).decode
T = TypeVar("T")


class RemoteShim:
    """`bulkhead.manager.ports.Shim` over one connection."""

    def __init__(
        self,
        client: ShimClient,
        container_id: str,
        names_directory: str,
        has_left: Callable[[], bool],
        exec_news: ExecNews,
        *,
        keeps_execs: bool = False,
        tells_new_execs: bool = False,
    ) -> None:
        self.client = client
        self.container_id = container_id
        self.names_directory = names_directory
        self._has_left = has_left
        self._exec_news = exec_news
        self._keeps_execs = keeps_execs
        self.tells_new_execs = tells_new_execs
        # It has said that it does what `shutdown` asks for by itself.
        self.leaves = False

    @property
    def gone(self) -> bool:
        return self.client.client.has_ended

    async def state(self, *, execs: bool = False) -> ShimState:
        told = await self.client.state(execs=execs)
        return ShimState(
            phase=told.phase,
            pid=told.pid,
            start_time=told.start_time,
            exit_code=told.exit_code,
            started_at=told.started_at,
            exited_at=told.exited_at,
            oom_killed=told.oom_killed,
            losses=_losses(told.losses),
            unattended=told.unattended,
            execs=tuple(_known(told.execs)),
            oom_kills=told.oom_kills,
        )

    async def create(self, bundle: Bundle, *, start: bool = False, network: int = -1) -> Created:
        answer = await self.client.create(_create_request(bundle, start=start, network=network))
        _raise_failure(answer.failure)
        return Created(
            pid=answer.pid,
            start_time=answer.start_time,
            warnings=tuple(answer.warnings),
            started_at=answer.started_at,
        )

    async def start(self) -> int:
        answer = await self.client.start()
        _raise_failure(answer.failure)
        return answer.started_at

    async def wait(self, exec_id: str = "") -> Exit:
        return _exit(await self.client.wait(exec_id))

    async def take_exit(self) -> Exit:
        answer = await self.client.wait(for_record=True)
        self.leaves = self.leaves or answer.leaves
        return _exit(answer)

    async def kill(self, signal: int, *, exec_id: str = "", everyone: bool = False) -> None:
        await self._asked(self.client.kill(signal, exec_id=exec_id, all=everyone, timeout=KILL_SECONDS))

    async def pause(self) -> None:
        await self._asked(self.client.pause())

    async def resume(self) -> None:
        await self._asked(self.client.resume())

    async def pids(self) -> list[int]:
        return list((await self._asked(self.client.pids())).pids)

    async def create_exec(self, asked: AskedExec) -> None:
        await self._asked(self.client.exec_create(_exec_request(asked)))

    def expect_exec(self, asked: AskedExec) -> Expecting:
        request = _exec_request(asked, lasting=True)
        posted = self.client.expect_exec(request)
        kept = self._keeps_execs and posted.sent and bool(request.record)
        return Expecting(kept=kept, told=self._lasting(posted))

    async def _lasting(self, posted: Posted[wire.ExecCreateResponse]) -> Lasting | None:
        told = await self._asked(posted.answer())
        if not told.began_at:
            return None
        return Lasting(began_at=told.began_at, exit_code=told.exit_code if told.exited_at else None)

    async def new_execs(self, pattern: bytes = b"") -> None:
        if pattern:
            self._exec_news.dial()
        await self.client.new_execs(pattern, timeout=None)

    def renew_news(self) -> None:
        self._exec_news.renew()

    def told_execs(self) -> Sequence[KnownExec]:
        return self._exec_news.read()

    def end_news(self) -> None:
        self._exec_news.close()

    async def start_exec(self, exec_id: str) -> int:
        answer = await self._asked(self.client.exec_start(exec_id))
        _raise_failure(answer.failure)
        return answer.pid

    async def exec_state(self, exec_id: str) -> ExecState:
        told = await self.client.exec_state(exec_id)
        return ExecState(phase=told.phase, pid=told.pid, exit_code=told.exit_code)

    async def begun(self, exec_id: str) -> None:
        await self.client.begun(exec_id)

    async def resize(self, height: int, width: int, exec_id: str = "") -> None:
        await self._asked(self.client.resize_pty(height, width, exec_id=exec_id))

    async def health(self, after: int) -> Health:
        return decode_health((await self.client.health(after)).record)

    async def serve_names(self) -> None:
        await self._asked(self.client.serve_names(self.names_directory))

    async def relay(self, relays: Sequence[Relay]) -> None:
        await self.client.relay(
            [
                wire.RelayWay(
                    protocol=each.protocol,
                    host=each.host_ip,
                    host_port=each.host_port,
                    address=each.address,
                    port=each.container_port,
                )
                for each in relays
            ]
        )

    async def _asked(self, answer: Awaitable[T]) -> T:
        """What it answers. Raises Conflict when it has hung up because it leaves: its container has ended."""
        try:
            return await answer
        except Unavailable as error:
            if self._has_left():
                raise Conflict(f"container {self.container_id} is not running") from error
            raise


class SupervisedShims:
    """`bulkhead.manager.ports.Shims`. Use as an async context manager; leaving it leaves the shims alone."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._names_directory = str(instance.names_directory)
        self._channel: Channel | None = None
        self._live: dict[str, RemoteShim] = {}

    async def __aenter__(self) -> SupervisedShims:
        self._channel = channel(self._instance.supervisor_socket)
        self._supervisor = stub(SupervisorStub, self._channel, "supervisor")
        return self

    async def __aexit__(self, *_: object) -> None:
        for container_id in list(self._live):
            await self.forget(container_id)
        if self._channel is not None:
            self._channel.close()

    async def ensure(self, container_id: str, *, network_given: bool = False, cgroup: str = "") -> Shim:
        found = await self.live(container_id)
        if found is not None:
            return found
        await self._launch(container_id, network_given=network_given, cgroup=cgroup)
        failpoints.hit("manager.shim.launched")
        try:
            return await self._connect(container_id)
        except FileNotFoundError as error:
            raise Unavailable(f"cannot reach the shim of {container_id[:12]}: it does not listen") from error

    async def live(self, container_id: str) -> Shim | None:
        known = self._live.get(container_id)
        if known is not None and not known.client.closed.done():
            return known
        if not self._listens(container_id):
            return None
        try:
            return await self._connect(container_id)
        except (Unavailable, FileNotFoundError):
            return None

    def _listens(self, container_id: str) -> bool:
        """Or has listened, and was killed."""
        return os.path.exists(self._socket(container_id))  # noqa: PTH110 -- on the way of each start

    def _socket(self, container_id: str) -> str:
        return f"{self._instance.container_run(container_id)}/{SHIM_SOCKET}"

    async def discard(self, container_id: str) -> None:
        if self._has_left(container_id):
            return
        try:
            shim = await self.live(container_id)
        except Conflict:
            # Nobody here can ask it to leave. What runs is not harmed for that.
            if _lives(_cgroup_of(self._instance.container_data(container_id))):
                raise
            shim = None
        if isinstance(shim, RemoteShim):
            try:
                if not shim.leaves:
                    await shim.client.shutdown(timeout=SHUTDOWN_SECONDS)
                    return
                await _hung_up(shim)
            except (Unavailable, DeadlineExceeded) as error:
                log.warning("a shim does not leave", container=container_id, reason=str(error))
            finally:
                await self.forget(container_id)
        await self._destroy(container_id)

    def _has_left(self, container_id: str) -> bool:
        """Whether nothing of a shim is there, nor of one that was killed: who leaves takes it all along."""
        known = self._live.get(container_id)
        if known is not None and not known.client.closed.done():
            return False
        return self._is_traceless(container_id)

    def _is_traceless(self, container_id: str) -> bool:
        data = str(self._instance.container_data(container_id))
        traces = (str(self._instance.container_run(container_id)), *(f"{data}/{name}" for name in _TRACES))
        return not any(map(os.path.lexists, traces))

    def began_at(self, container_id: str) -> int:
        task = read_json(self._instance.container_data(container_id) / TASK_RECORD) or {}
        started_at = task.get("started_at")
        return started_at if isinstance(started_at, int) else 0

    def left_execs(self, container_id: str) -> Sequence[KnownExec]:
        return tuple(known_execs(ended_execs.read_all(str(self._instance.container_run(container_id)))))

    async def break_off(self, container_id: str) -> None:
        place = self._instance.container_data(container_id) / SHIM_RECORD
        pid = (read_json(place) or {}).get("pid")
        if isinstance(pid, int) and process.waits_for_disk(pid):
            # It would not end before the disk answers, and then without having written what it knows.
            return
        await _kill(place)
        await self.forget(container_id)

    async def forget(self, container_id: str) -> None:
        known = self._live.pop(container_id, None)
        if known is not None:
            await known.client.client.close()

    async def _launch(self, container_id: str, *, network_given: bool, cgroup: str) -> None:
        request = LaunchRequest(
            container_id=container_id,
            run_dir=str(self._instance.container_run(container_id)),
            data_dir=str(self._instance.container_data(container_id)),
            network_given=network_given,
            cgroup=cgroup,
        )
        try:
            await self._supervisor.launch(request, timeout=LAUNCH_SECONDS)
        except PeerAway as error:
            raise SupervisorAway(str(error)) from error
        except DeadlineExceeded as error:
            raise SupervisorAway("the supervisor service is not available: it does not answer") from error

    async def _connect(self, container_id: str) -> RemoteShim:
        """Raises Conflict when the shim is of a version that this manager does not understand."""
        record = read_json(f"{self._instance.container_data(container_id)}/{SHIM_RECORD}")
        check_protocol(container_id, record or {})
        client = TtrpcClient(self._socket(container_id))
        await client.connect(timeout=CONNECT_SECONDS)
        other = self._live.get(container_id)
        if other is not None and not other.client.closed.done():
            await client.close()
            return other
        has_left = functools.partial(self._is_traceless, container_id)
        keeps, tells = ((record or {}).get(what) is True for what in (KEEPS_EXECS, TELLS_NEW_EXECS))
        shim = RemoteShim(
            ShimClient(client),
            container_id,
            self._names_directory,
            has_left,
            ExecNews(str(self._instance.stdio_socket(container_id))),
            keeps_execs=keeps,
            tells_new_execs=tells,
        )
        self._live[container_id] = shim
        client.closed.add_done_callback(lambda _: self._drop(container_id, shim))
        return shim

    def _drop(self, container_id: str, shim: RemoteShim) -> None:
        if self._live.get(container_id) is shim:
            del self._live[container_id]

    async def _destroy(self, container_id: str) -> None:
        """After a shim that is dead, or does not answer: end it and what it held."""
        data = self._instance.container_data(container_id)
        record = read_json(data / SHIM_RECORD)
        run = self._instance.container_run(container_id)
        if any(atomicfile.is_left(data / name) for name in _ALONE):
            await asyncio.to_thread(_sweep, data)
        if record is None and not run.exists():
            return
        await _kill(data / SHIM_RECORD)
        # Not left behind by a deadline: the next start makes a group of the same name.
        await to_its_end(remove_group, _cgroup_of(data) or _made_ahead(record))
        await asyncio.to_thread((data / SHIM_RECORD).unlink, missing_ok=True)
        remove_run_directory(run)


async def _hung_up(shim: RemoteShim) -> None:
    """When a shim that leaves by itself has done so, or was killed on the way. Raises DeadlineExceeded."""
    done, _ = await asyncio.wait([shim.client.closed], timeout=SHUTDOWN_SECONDS)
    if not done:
        raise DeadlineExceeded(f"it said so, and stays for {SHUTDOWN_SECONDS:g} s")


def _sweep(data: Path) -> None:
    """What a shim that was killed in the middle of a write has left. Blocking: a disk may stand still."""
    for name in _ALONE:
        atomicfile.sweep(data / name)


def remove_run_directory(run: Path) -> None:
    """Take away the sockets of a shim that is gone."""
    for name in (SHIM_SOCKET, "stdio.sock", ended_execs.NAME):
        (run / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        run.rmdir()


def remove_group(path: str) -> None:
    """Kill everything in a cgroup and remove it; no error when there is none. Blocking. Raises Internal."""
    if not path:
        return
    group = Cgroup(path)
    try:
        group.kill_all()
        group.remove()
    except FileNotFoundError:
        return
    except OSError as error:
        raise Internal(f"cannot remove cgroup {path}: {error.strerror}") from error


def _lives(group: str) -> bool:
    """Whether a process is in the cgroup."""
    try:
        return bool(group and Cgroup(group).pids())
    except FileNotFoundError:
        return False


def _cgroup_of(data: Path) -> str:
    config = read_json(data / "config.json") or {}
    path = (config.get("linux") or {}).get("cgroupsPath")
    return path if isinstance(path, str) else ""


def _made_ahead(record: dict[str, Any] | None) -> str:
    """The cgroup that a shim was to make before there is a config that names it."""
    path = (record or {}).get("cgroup")
    return path if isinstance(path, str) else ""


async def _kill(place: Path) -> None:
    """SIGKILL the shim that wrote the record, and wait until it is gone. Raises Internal when it stays, Unavailable."""
    record = read_json(place) or {}
    pid, started = record.get("pid"), record.get("start_time")
    if not isinstance(pid, int) or not isinstance(started, int):
        return
    try:
        descriptor = process.open_verified(pid, started)
    except OSError as error:
        raise Unavailable(f"cannot end the shim {pid}: {error.strerror}") from error
    if descriptor is None:
        return
    try:
        # A shim that has left takes its record along, before it is another container's.
        if read_json(place) != record:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        await _gone(descriptor, pid)
    finally:
        os.close(descriptor)


async def _gone(pidfd: int, pid: int) -> None:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    loop.add_reader(pidfd, lambda: None if ended.done() else ended.set_result(None))
    try:
        async with asyncio.timeout(DEATH_SECONDS):
            await ended
    except TimeoutError as error:
        raise Internal(f"cannot end the shim {pid}: it survives SIGKILL") from error
    finally:
        loop.remove_reader(pidfd)


def _create_request(bundle: Bundle, *, start: bool, network: int) -> wire.CreateRequest:
    rootfs = bundle.rootfs
    return wire.CreateRequest(
        rootfs=None
        if rootfs is None
        else wire.OverlayRootfs(
            lower=list(rootfs.lower), upper=rootfs.upper, work=rootfs.work, volatile=bundle.volatile
        ),
        log=to_message(wire.LogOptions, bundle.log),
        open_stdin=bundle.open_stdin,
        stdin_once=bundle.stdin_once,
        height=bundle.height,
        width=bundle.width,
        runtime=list(bundle.runtime),
        planned=bundle.planned,
        start=start,
        network=None if network < 0 else _own_descriptor(network),
    )


def _exit(answer: wire.WaitResponse) -> Exit:
    losses = _losses(answer.losses)
    return Exit(
        code=answer.exit_code,
        at=answer.exited_at,
        oom_killed=answer.oom_killed,
        losses=losses,
        oom_kills=answer.oom_kills,
    )


def _known(execs: Sequence[wire.KnownExec]) -> Iterator[KnownExec]:
    for each in execs:
        try:
            yield KnownExec(
                record=_decode_exec(each.record),
                exited_at=each.exited_at,
                began_at=each.began_at,
                exit_code=each.exit_code,
            )
        except msgspec.MsgspecError as error:
            log.warning("cannot read what a shim keeps of an exec", reason=str(error))


def _exec_request(asked: AskedExec, *, lasting: bool = False) -> wire.ExecCreateRequest:
    record = _encode(asked.record)
    return wire.ExecCreateRequest(
        exec_id=asked.exec_id,
        process=_encode(asked.process),
        open_stdin=asked.stdin,
        height=asked.size[0],
        width=asked.size[1],
        planned=asked.planned,
        lasting=lasting,
        record=record if len(record) <= _LARGEST_RECORD else b"",
    )


def _own_descriptor(network: int) -> wire.Network:
    """Where the shim finds a network namespace that we hold."""
    return wire.Network(path=f"/proc/{os.getpid()}/fd/{network}", inode=os.fstat(network).st_ino)


def _losses(told: bytes) -> tuple[Loss, ...]:
    return _decode_losses(told) if told else ()


def _raise_failure(failure: wire.Launch | None) -> None:
    if failure is not None:
        raise LaunchFailed(failure.message, step=failure.step, errno=failure.errno, exit_code=failure.exit_code or 128)
