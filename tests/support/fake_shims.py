"""Shims without processes: each container's is an object that can be told to exit, fail, hang or die.

What a real shim leaves on disk (the exit record) is written here too, because others read it.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from bulkhead.errors import BulkheadError, Conflict, Internal, NotFound, Unavailable
from bulkhead.manager.ports import (
    AskedExec,
    Bundle,
    Created,
    ExecState,
    Exit,
    Expecting,
    KnownExec,
    Lasting,
    ShimState,
    SupervisorAway,
)
from bulkhead.model.execs import Exec
from bulkhead.model.health import Health
from bulkhead.model.instance import Instance
from bulkhead.model.losses import Loss
from bulkhead.model.network import Relay

# Beyond every kernel's pid_max: no such process exists.
_FIRST_PID = 5_000_000


class FakeShim:
    """`bulkhead.manager.ports.Shim`. `failures` and `gates` are by method name."""

    def __init__(self, instance: Instance, container_id: str, next_process: Callable[[], tuple[int, int]]) -> None:
        self.container_id = container_id
        self.phase = "new"
        self.pid = 0
        self.start_time = 0
        self.started_at = 0
        self.ended: Exit | None = None
        self.losses: tuple[Loss, ...] = ()
        self.relays: tuple[Relay, ...] = ()
        self.bundle: Bundle | None = None
        self.network = 0
        # Of a release that knows of no network made for it.
        self.older = False
        self.signals: list[tuple[int, bool]] = []
        self.ignored_signals: set[int] = set()
        self.exec_ends: dict[str, asyncio.Future[Exit]] = {}
        self.exec_processes: dict[str, dict[str, Any]] = {}
        self.started_execs: set[str] = set()
        self.sizes: list[tuple[int, int, str]] = []
        self.failures: dict[str, BulkheadError] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.called: set[str] = set()  # those too that stand at their gate
        self.dead = False
        self.healths = Health()
        self.probed = asyncio.Event()
        self._instance = instance
        self._next_process = next_process
        self._changed = asyncio.Event()
        # Who waits for an exec's beginning, and what wakes them.
        self.awaited_execs: set[str] = set()
        # Whether an exec ends before it has lasted long enough to be told of, and when it began.
        self.brief = False
        self.began_at = 1
        self.attended = False
        # Of a release that answers before an exec begins.
        self.old = False
        # Those with a record, which it tells whoever asks; of an earlier release, or too busy, it keeps none.
        self.keeps_execs = True
        self.known_execs: list[KnownExec] = []
        self._exec_begun = asyncio.Event()
        # Of a release that creates execs by itself, once it has a pattern, and who was not told of.
        self.tells_new_execs = True
        self.pattern = b""
        self.untold_execs: list[KnownExec] = []
        self._new_exec = asyncio.Event()

    async def state(self, *, execs: bool = False) -> ShimState:
        await self._called("state")
        return ShimState(
            phase=self.phase,
            pid=self.pid,
            start_time=self.start_time,
            exit_code=self.ended.code if self.ended else None,
            started_at=self.started_at,
            exited_at=self.ended.at if self.ended else 0,
            losses=self.losses,
            unattended=not self.attended,
            execs=tuple(self.known_execs) if execs else (),
        )

    @property
    def gone(self) -> bool:
        return self.dead

    async def create(self, bundle: Bundle, *, start: bool = False, network: int = -1) -> Created:
        await self._called("create")
        if self.phase != "new":
            raise Conflict("cannot create: it has been created")
        self.phase, self.bundle = "created", bundle
        if self.older:
            network = -1
        if network >= 0:
            self.network = os.fstat(network).st_ino
        self.pid, self.start_time = self._next_process()
        try:
            started_at = await self.start() if start or network >= 0 else 0
        except Conflict as error:
            raise Internal(f"its process was ended before its program ran: {error}") from error
        return Created(pid=self.pid, start_time=self.start_time, started_at=started_at)

    async def start(self) -> int:
        await self._called("start")
        self.phase, self.started_at = "running", time.time_ns()
        return self.started_at

    async def wait(self, exec_id: str = "") -> Exit:
        await self._called("wait")
        if exec_id and exec_id not in self.exec_ends:
            raise NotFound(f"no exec {exec_id}")
        if exec_id:
            return await asyncio.shield(self.exec_ends[exec_id])
        while self.ended is None:
            await self._changed.wait()
            await self._called("wait")
        return self.ended

    async def take_exit(self) -> Exit:
        return await self.wait()

    async def kill(self, signal: int, *, exec_id: str = "", everyone: bool = False) -> None:
        await self._called("kill")
        if self.phase not in ("running", "paused"):
            raise Conflict("cannot kill: it does not run")
        self.signals.append((signal, everyone))
        if signal not in self.ignored_signals or everyone:
            self.exit(128 + signal)

    async def pause(self) -> None:
        await self._called("pause")
        self.phase = "paused"

    async def resume(self) -> None:
        await self._called("resume")
        self.phase = "running"

    async def pids(self) -> list[int]:
        await self._called("pids")
        return [self.pid]

    async def create_exec(self, asked: AskedExec) -> None:
        await self._called("create_exec")
        if asked.exec_id in self.started_execs:
            raise Conflict(f"cannot create exec {asked.exec_id}: it exists")
        self.exec_processes[asked.exec_id] = asked.process
        self.exec_ends.setdefault(asked.exec_id, asyncio.get_running_loop().create_future())

    async def start_exec(self, exec_id: str) -> int:
        await self._called("start_exec")
        self.started_execs.add(exec_id)
        self._exec_begun.set()
        return self._next_process()[0]

    async def exec_state(self, exec_id: str) -> ExecState:
        await self._called("exec_state")
        if exec_id not in self.exec_ends:
            raise NotFound(f"no exec {exec_id}")
        end = self.exec_ends[exec_id]
        if end.done():
            return ExecState(phase="exited", exit_code=end.result().code)
        if exec_id not in self.started_execs:
            return ExecState(phase="created")
        return ExecState(phase="running", pid=self.pid)

    async def begun(self, exec_id: str) -> None:
        await self._called("begun")
        self.awaited_execs.add(exec_id)
        await self._until_begun(exec_id)

    async def _until_begun(self, exec_id: str) -> None:
        while exec_id not in self.started_execs:
            self._exec_begun.clear()
            await self._exec_begun.wait()
            await self._called("begun")
            if self.ended is not None:
                raise Unavailable("cannot call the shim: the connection ended")

    def expect_exec(self, asked: AskedExec) -> Expecting:
        kept = self.keeps_execs and not self.old
        if kept:
            self.known_execs.append(KnownExec(record=asked.record))
        return Expecting(kept=kept, told=self._expect(asked))

    async def _expect(self, asked: AskedExec) -> Lasting | None:
        await self.create_exec(asked)
        if self.old:
            return None
        await self._until_begun(asked.exec_id)
        end = self.exec_ends[asked.exec_id]
        if self.brief:
            await asyncio.shield(end)
        return Lasting(began_at=self.began_at, exit_code=end.result().code if end.done() else None)

    async def new_execs(self, pattern: bytes = b"") -> None:
        await self._called("new_execs")
        self.pattern = pattern or self.pattern
        while not self.untold_execs:
            self._new_exec.clear()
            await self._new_exec.wait()
            await self._called("new_execs")

    def told_execs(self) -> list[KnownExec]:
        told, self.untold_execs = self.untold_execs, []
        return told

    def renew_news(self) -> None:
        self.called.add("renew_news")

    def end_news(self) -> None:
        self.untold_execs = []

    async def health(self, after: int) -> Health:
        await self._called("health")
        while self.healths.revision <= after and self.ended is None:
            self.probed.clear()
            await self.probed.wait()
            await self._called("health")
        return self.healths

    async def serve_names(self) -> None:
        await self._called("serve_names")

    async def relay(self, relays: Sequence[Relay]) -> None:
        await self._called("relay")
        self.relays = tuple(relays)

    async def resize(self, height: int, width: int, exec_id: str = "") -> None:
        await self._called("resize")
        self.sizes.append((height, width, exec_id))

    # What tests do to it

    def exit(self, code: int) -> None:
        """The container's process ends; its record is on disk before anybody hears of it."""
        self.ended = Exit(code=code, at=time.time_ns(), losses=self.losses)
        self.phase = "exited"
        record = {"exit_code": code, "exited_at": self.ended.at, "started_at": self.started_at, "pid": self.pid}
        self._instance.exit_record(self.container_id).write_text(json.dumps(record))
        self._changed.set()
        self._exec_begun.set()
        self.probed.set()

    def create_exec_itself(self, record: Exec, *, told: bool = True) -> None:
        """Somebody has dialled it."""
        self.known_execs.append(KnownExec(record=record))
        self.exec_ends.setdefault(record.id, asyncio.get_running_loop().create_future())
        self.tell(KnownExec(record=record), told=told)

    def tell(self, known: KnownExec, *, told: bool = True) -> None:
        """Of one that it has created; whether it rings as well."""
        self.untold_execs.append(known)
        if told:
            self._new_exec.set()

    def begin_exec(self, exec_id: str) -> None:
        """Its client dials."""
        self.started_execs.add(exec_id)
        self._exec_begun.set()

    def exit_exec(self, exec_id: str, code: int) -> None:
        """An exec's process ends."""
        self.exec_ends[exec_id].set_result(Exit(code=code, at=time.time_ns()))

    def die(self) -> None:
        """SIGKILL of the shim: every call fails from now on."""
        self.dead = True
        self.probed.set()
        self._new_exec.set()
        self._changed.set()
        self._exec_begun.set()

    async def _called(self, method: str) -> None:
        self.called.add(method)
        if method in self.gates:
            await self.gates[method].wait()
        if self.dead:
            raise Unavailable("cannot call the shim: the connection ended")
        if method in self.failures:
            raise self.failures[method]


class FakeShims:
    """`bulkhead.manager.ports.Shims`. It outlives the manager under test, as shims do."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._pids = count(_FIRST_PID)
        self.shims: dict[str, FakeShim] = {}
        self.launched: list[str] = []
        self.discarded: list[str] = []
        self.supervisor_away = False
        self.older = False
        # What dead shims left behind.
        self.left: dict[str, list[KnownExec]] = {}
        self.discard_failure: BulkheadError | None = None
        # What the next shims fail with, by method.
        self.failures: dict[str, BulkheadError] = {}
        # (pid, start time) that every container's process has, instead of ones that do not exist.
        self.real_process: tuple[int, int] | None = None
        self.gates: dict[str, asyncio.Event] = {}

    async def ensure(self, container_id: str, *, network_given: bool = False, cgroup: str = "") -> FakeShim:
        found = await self.live(container_id)
        if found is not None:
            return found
        if self.supervisor_away:
            raise SupervisorAway("the supervisor service is not available: connection refused")
        shim = FakeShim(self._instance, container_id, self._next_process)
        shim.older = self.older
        before = self.shims.get(container_id)
        if before is not None and before.ended is not None:
            shim.phase, shim.ended, shim.pid = "exited", before.ended, before.pid
        elif before is not None and before.phase in ("running", "paused"):
            shim.phase, shim.pid, shim.started_at = before.phase, before.pid, before.started_at
            shim.start_time = before.start_time
            if self.real_process is None:
                # A process that does not exist, and whose end nobody has seen.
                shim.phase, shim.ended = "exited", Exit(code=255, at=time.time_ns())
        shim.failures.update(self.failures)
        shim.gates.update(self.gates)
        self.shims[container_id] = shim
        self.launched.append(container_id)
        return shim

    async def live(self, container_id: str) -> FakeShim | None:
        shim = self.shims.get(container_id)
        return shim if shim is not None and not shim.dead else None

    async def discard(self, container_id: str) -> None:
        if self.discard_failure is not None:
            raise self.discard_failure
        shim = self.shims.pop(container_id, None)
        if shim is not None:
            self.discarded.append(container_id)
            if shim.phase in ("running", "paused", "created") and not shim.dead:
                shim.exit(137)

    def began_at(self, container_id: str) -> int:
        shim = self.shims.get(container_id)
        return shim.started_at if shim is not None else 0

    def left_execs(self, container_id: str) -> list[KnownExec]:
        return self.left.get(container_id, [])

    async def break_off(self, container_id: str) -> None:
        shim = self.shims.get(container_id)
        if shim is not None:
            shim.die()

    def _next_process(self) -> tuple[int, int]:
        return self.real_process or (next(self._pids), 1)

    async def forget(self, container_id: str) -> None:
        return
