"""Launch: the live shim of a container if it has one, else a spare made its shim; never two."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from bulkhead import failpoints
from bulkhead.errors import Conflict, DeadlineExceeded, InvalidArgument, Unavailable
from bulkhead.linux import process
from bulkhead.shim.app import SHIM_RECORD
from bulkhead.shim.identity import Identity
from bulkhead.supervisor.keeping import Keeping
from bulkhead.supervisor.spares import Shim, SparePool
from bulkhead.wire.ttrpc_client import ShimClient, TtrpcClient

_ANSWER_TIMEOUT = 5.0
_LAUNCH_TIMEOUT = 10.0
# A dead spare is replaced by the next one.
_TRIES = 3
_REBIND_POLL = 0.02
_REBIND_TIMEOUT = 3.0
_LONGEST_SOCKET_PATH = 107

log = structlog.get_logger()


class Launches:
    """Launches in progress, one at a time for each container."""

    def __init__(self, pool: SparePool, keeping: Keeping) -> None:
        self._pool = pool
        self._keeping = keeping
        self._turns: dict[str, _Turn] = {}

    async def launch(self, identity: Identity) -> Shim:
        """The container's shim, whose sockets listen.

        Raises InvalidArgument, Unavailable (no spare, or a shim that does not answer), and what the shim raises.
        """
        _check(identity)
        async with self._alone(identity.container_id):
            shim = await self._found_or_made(identity)
            self._keeping.follow(_stdio_socket(identity))
            failpoints.hit("supervisor.launch.kept")
            return shim

    async def _found_or_made(self, identity: Identity) -> Shim:
        live = await _find_live(identity)
        if live is not None:
            return live
        if not _is_held(Path(identity.data_dir) / SHIM_RECORD):
            await self._keeping.hear_out(_stdio_socket(identity))
        try:
            return await self._fresh(identity)
        except Conflict:
            # A shim holds the container, but its sockets are gone: the run directory was wiped.
            return await _bring_back(identity)

    async def _fresh(self, identity: Identity) -> Shim:
        failure: Unavailable | None = None
        for _ in range(_TRIES):
            spare = await self._pool.take(timeout=_LAUNCH_TIMEOUT)
            try:
                estate = self._keeping.estate(identity.container_id)
                failpoints.hit("supervisor.launch.taken")
                shim = await spare.become(identity, estate, timeout=_LAUNCH_TIMEOUT)
                failpoints.hit("supervisor.launch.given")
            except Unavailable as error:
                failure = error
                continue
            log.info("shim launched", container=identity.container_id, shim_pid=shim.pid)
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


def _stdio_socket(identity: Identity) -> Path:
    return Path(identity.run_dir) / "stdio.sock"


def _check(identity: Identity) -> None:
    hexadecimal = set(identity.container_id) <= set("0123456789abcdef")
    if not hexadecimal or not 12 <= len(identity.container_id) <= 64:
        raise InvalidArgument(f"cannot launch shim: {identity.container_id!r} is no container id")
    for path in (identity.run_dir, identity.data_dir):
        if not path.startswith("/") or ".." in Path(path).parts or "\0" in path:
            raise InvalidArgument(f"cannot launch shim: {path!r} is not an absolute path")
    if len(f"{identity.run_dir}/stdio.sock".encode()) > _LONGEST_SOCKET_PATH:
        raise InvalidArgument(f"cannot launch shim: {identity.run_dir!r} is too long for a socket's path")


async def _find_live(identity: Identity) -> Shim | None:
    """The shim that answers on the container's socket; Unavailable when one listens but does not answer."""
    client = TtrpcClient(f"{identity.run_dir}/shim.sock")
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
    started = process.start_time(state.shim_pid)
    return None if started is None else Shim(pid=state.shim_pid, start_time=started)


async def _bring_back(identity: Identity) -> Shim:
    """Tell the shim that holds the container to make its sockets again, and wait for them."""
    holder = _open_holder(Path(identity.data_dir) / SHIM_RECORD)
    if holder is None:
        raise Unavailable(f"cannot launch shim: container {identity.short_id} is held by an unknown process")
    try:
        signal.pidfd_send_signal(holder, signal.SIGUSR1)
    finally:
        os.close(holder)
    try:
        async with asyncio.timeout(_REBIND_TIMEOUT):
            while True:
                live = await _find_live(identity)
                if live is not None:
                    log.info("shim brought back", container=identity.container_id, shim_pid=live.pid)
                    return live
                await asyncio.sleep(_REBIND_POLL)
    except TimeoutError as error:
        raise Unavailable(f"cannot reach the shim of {identity.short_id}: it does not listen again") from error


def _is_held(record: Path) -> bool:
    holder = _open_holder(record)
    if holder is None:
        return False
    try:
        # A zombie has its pid still, and its pidfd tells of its end.
        poll = select.poll()
        poll.register(holder, select.POLLIN)
        return not poll.poll(0)
    finally:
        os.close(holder)


def _open_holder(record: Path) -> int | None:
    """A pidfd of the shim that wrote `record`, None when it is gone or there is no such record."""
    try:
        told = json.loads(record.read_bytes())
        return process.open_verified(int(told["pid"]), int(told["start_time"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
