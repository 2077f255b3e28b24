"""Launch: the live shim of a container if it has one, else a spare made its shim; never two."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import select
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from bulkhead import failpoints
from bulkhead.errors import Conflict, DeadlineExceeded, InvalidArgument, Unavailable
from bulkhead.linux import locks, process
from bulkhead.shim.app import SHIM_RECORD, title
from bulkhead.shim.identity import NOTHING_KNOWN, Expected, Identity
from bulkhead.supervisor.keeping import Keeping
from bulkhead.supervisor.spares import Shim, SparePool
from bulkhead.wire.ttrpc_client import ShimClient, TtrpcClient

_ANSWER_TIMEOUT = 5.0
_LAUNCH_TIMEOUT = 10.0
# A dead spare is replaced by the next one.
_TRIES = 3
_REBIND_POLL = 0.02
# Of a shim that has been at work; of one that has not even said that it is there.
_REBIND_TIMEOUT, _CLAIM_TIMEOUT = 5.0, 3.0
_DEATH_TIMEOUT = 3.0
_LONGEST_SOCKET_PATH = 107

log = structlog.get_logger()


class Launches:
    """Launches in progress, one at a time for each container."""

    def __init__(self, pool: SparePool, keeping: Keeping) -> None:
        self._pool = pool
        self._keeping = keeping
        self._turns: dict[str, _Turn] = {}

    async def launch(self, identity: Identity, expected: Expected = NOTHING_KNOWN) -> Shim:
        """The container's shim, whose sockets listen; a new one makes ready for what is `expected`.

        Raises InvalidArgument, Unavailable (no spare, or a shim that does not answer), and what the shim raises.
        """
        _check(identity)
        async with self._alone(identity.container_id):
            shim = await self._found_or_made(identity, expected)
            failpoints.hit("supervisor.launch.kept")
            return shim

    async def _found_or_made(self, identity: Identity, expected: Expected) -> Shim:
        live = await _find_live(identity)
        if live is None:
            await self._hear_out(identity)
            try:
                return await self._fresh(identity, expected)
            except Conflict:
                # A shim holds the container, but does not listen: the run directory was wiped, or it hangs.
                live = await _brought_back(identity)
        if live is None:
            await self._hear_out(identity)
            return await self._fresh(identity, expected)
        self._keeping.follow(_stdio_socket(identity))
        return live

    async def _hear_out(self, identity: Identity) -> None:
        """A dying shim lets go of its lock a moment before it is dead."""
        place = _stdio_socket(identity)
        if self._keeping.hears(place) and (not _is_held(identity) or not _owners(identity)):
            await self._keeping.hear_out(place)

    async def _fresh(self, identity: Identity, expected: Expected) -> Shim:
        failure: Unavailable | None = None
        for _ in range(_TRIES):
            spare = await self._pool.take(timeout=_LAUNCH_TIMEOUT)
            try:
                estate = self._keeping.estate(identity.container_id)
                failpoints.hit("supervisor.launch.taken")
                shim = await spare.become(identity, estate, expected, timeout=_LAUNCH_TIMEOUT)
                failpoints.hit("supervisor.launch.given")
                self._keeping.keep(identity.container_id, _stdio_socket(identity), spare)
                self._pool.expect(spare)
            except Unavailable as error:
                failure = error
                continue
            # After the answer, which is given in this turn of the loop: to make a line takes as long as to launch.
            tell = functools.partial(log.info, "shim launched", container=identity.container_id, shim_pid=shim.pid)
            asyncio.get_running_loop().call_soon(tell)
            return shim
        assert failure is not None
        raise failure

    @contextlib.asynccontextmanager
    async def _alone(self, container_id: str) -> AsyncIterator[None]:
        turn = self._turns.setdefault(container_id, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[container_id]


@dataclass(slots=True)
class _Turn:
    """The lock of one container, and how many have or await it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


def _stdio_socket(identity: Identity) -> str:
    return f"{identity.run_dir}/stdio.sock"


def _check(identity: Identity) -> None:
    hexadecimal = set(identity.container_id) <= set("0123456789abcdef")
    if not hexadecimal or not 12 <= len(identity.container_id) <= 64:
        raise InvalidArgument(f"cannot launch shim: {identity.container_id!r} is no container id")
    for path in (identity.run_dir, identity.data_dir):
        if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
            raise InvalidArgument(f"cannot launch shim: {path!r} is not an absolute path")
    if len(_stdio_socket(identity).encode()) > _LONGEST_SOCKET_PATH:
        raise InvalidArgument(f"cannot launch shim: {identity.run_dir!r} is too long for a socket's path")


async def _find_live(identity: Identity) -> Shim | None:
    """The shim that answers on the container's socket; Unavailable when one listens but does not answer."""
    place = f"{identity.run_dir}/shim.sock"
    if not _is_there(place):
        # As for most containers that are started: nobody has listened yet.
        return None
    client = TtrpcClient(place)
    try:
        await client.connect(timeout=_ANSWER_TIMEOUT)
    except Unavailable:
        return None
    try:
        state = await ShimClient(client).state(timeout=_ANSWER_TIMEOUT)
    except DeadlineExceeded as error:
        pid = client.peer_pid
        raise Unavailable(f"cannot reach the shim of {identity.short_id}: pid {pid} does not answer") from error
    except Unavailable:
        # It ended while we asked.
        return None
    finally:
        await client.close()
    try:
        started = process.start_time(state.shim_pid)
    except OSError as error:
        raise Unavailable(f"cannot look at the shim of {identity.short_id}: {error.strerror}") from error
    return None if started is None else Shim(pid=state.shim_pid, start_time=started)


def _is_there(socket: str) -> bool:
    return os.path.lexists(socket)


async def _brought_back(identity: Identity) -> Shim | None:
    """The shim that holds the container and does not listen, when it listens again; None when nobody holds it now.

    One that hangs is ended: its death loses nothing. Raises Unavailable for one that was stopped, or that stays.
    """
    holder = _open_holder(identity)
    try:
        live = None if holder is None else await _told_to_listen(identity, holder)
        if live is None:
            # Forks of a dead shim may have its lock for a moment.
            live = await _awaited(lambda: not _owners(identity), identity, _DEATH_TIMEOUT)
        return live
    except TimeoutError as error:
        holders = ", ".join(f"pid {pid}" for pid in _owners(identity)) or "an unknown process"
        text = f"cannot reach the shim of {identity.short_id}: {holders} holds the container and does not listen"
        raise Unavailable(text) from error
    finally:
        if holder is not None:
            os.close(holder.pidfd)


async def _told_to_listen(identity: Identity, holder: _Holder) -> Shim | None:
    """The holder, if it listens again; None when it has ended, by itself or by us. Raises TimeoutError."""
    _send(holder, signal.SIGUSR1)
    patience = _REBIND_TIMEOUT if holder.recorded else _CLAIM_TIMEOUT
    try:
        return await _awaited(lambda: _has_left(holder, identity), identity, patience)
    except TimeoutError:
        if process.is_stopped(holder.pid):
            raise
    log.error("a shim hangs and is ended", container=identity.container_id, shim_pid=holder.pid)
    if not _has_left(holder, identity):
        _send(holder, signal.SIGKILL)
    return await _awaited(lambda: _has_left(holder, identity), identity, _DEATH_TIMEOUT)


def _send(holder: _Holder, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(holder.pidfd, number)


async def _awaited(is_free: Callable[[], bool], identity: Identity, seconds: float) -> Shim | None:
    """The container's shim once it listens; None once `is_free`. Raises TimeoutError when neither comes in time."""
    async with asyncio.timeout(seconds):
        while not is_free():
            live = await _find_live(identity)
            if live is not None:
                log.info("shim brought back", container=identity.container_id, shim_pid=live.pid)
                return live
            await asyncio.sleep(_REBIND_POLL)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Holder:
    """A shim that holds its container; `recorded`: it says so beside the bundle."""

    pid: int
    started: int
    pidfd: int
    recorded: bool


def _is_held(identity: Identity) -> bool:
    """By the shim that has left its record."""
    holder = _open_recorded(identity)
    if holder is None:
        return False
    try:
        return not _has_ended(holder.pidfd)
    finally:
        os.close(holder.pidfd)


def _has_left(holder: _Holder, identity: Identity) -> bool:
    """By its end, or as one that is free for another container, or has it already."""
    if holder.recorded:
        return _has_ended(holder.pidfd) or _recorded(identity) != (holder.pid, holder.started)
    return _has_ended(holder.pidfd) or process.title(holder.pid) != title(identity)


def _has_ended(pidfd: int) -> bool:
    # A zombie has its pid still, and its pidfd tells of its end.
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _owners(identity: Identity) -> list[int]:
    """Who holds the container's lock, or has left it to forks, by the kernel's word."""
    try:
        return locks.flock_owners(Path(identity.data_dir))
    except OSError:
        return []


def _open_holder(identity: Identity) -> _Holder | None:
    """Who holds the container and lives: by its own record, else by the lock and the name that a shim takes."""
    recorded, owners = _open_recorded(identity), _owners(identity)
    if recorded is not None and (recorded.pid in owners or not owners):
        return recorded
    if recorded is not None:
        os.close(recorded.pidfd)
    for pid in owners:
        started = process.start_time(pid)
        pidfd = process.open_verified(pid, started) if started is not None else None
        if started is None or pidfd is None:
            continue
        if process.title(pid) == title(identity):
            return _Holder(pid=pid, started=started, pidfd=pidfd, recorded=False)
        os.close(pidfd)
    return None


def _open_recorded(identity: Identity) -> _Holder | None:
    """The shim that wrote the container's record, None when it is gone or there is no such record."""
    who = _recorded(identity)
    try:
        pidfd = None if who is None else process.open_verified(*who)
    except OSError:
        return None
    if who is None or pidfd is None:
        return None
    return _Holder(pid=who[0], started=who[1], pidfd=pidfd, recorded=True)


def _recorded(identity: Identity) -> tuple[int, int] | None:
    """Pid and start time, as they stand in the container's record now."""
    try:
        told = json.loads((Path(identity.data_dir) / SHIM_RECORD).read_bytes())
        return int(told["pid"]), int(told["start_time"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
