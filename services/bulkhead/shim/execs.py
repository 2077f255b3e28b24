"""Further processes in the container: registered, run once, remembered for a while.

The table is bounded: a client that registers for ever (health probes) must not make the shim grow.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from bulkhead import failpoints
from bulkhead.errors import BulkheadError, Conflict, InvalidArgument, LaunchFailed, NotFound, ResourceExhausted
from bulkhead.linux import process
from bulkhead.model.losses import Loss, Lost
from bulkhead.shim import custody, inheritance
from bulkhead.shim.ahead import Ahead
from bulkhead.shim.container import Container
from bulkhead.shim.ends import REAP_POLL, REAP_TRIES
from bulkhead.shim.exits import UNKNOWN_EXIT
from bulkhead.shim.loop import Loop, Signals, Timer
from bulkhead.shim.ports import Further, Launcher, Process
from bulkhead.shim.sinks import NoLog
from bulkhead.shim.stdio import Streams

_MOST = 1024
# Docker forgets an exec five minutes after its end.
_REMEMBERED = 300 * 1_000_000_000
# More than the manager may be told of, or have in memory, without a disk that knows them (`new_execs`, and his owed).
_KEPT_ENDED = 96
# Most execs are over by then: the supervisor need not hear of them, nor their pipes hold much.
_KEEP_AFTER = 0.02
# Of records: what is told of them must fit into one message.
_MOST_TOLD = 1 << 20
_MOST_KEPT = custody.MOST_DESCRIPTORS - 16


class ExecPhase(Enum):
    """Where an exec is; the names go over the wire."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(slots=True, kw_only=True, eq=False)
class Exec:
    """One of them."""

    exec_id: str
    process: dict[str, Any]
    open_stdin: bool
    streams: Streams
    planned: bytes = b""
    # What the manager has of it, or is told: for whoever comes after him. Empty where he has kept it to himself.
    record: bytes = b""
    # As the record has it; None where nobody has read that yet.
    spec: Mapping[str, Any] | None = None
    phase: ExecPhase = ExecPhase.CREATED
    running: Further | None = None
    pid: int = 0
    # When it was begun, whatever came of that.
    started_at: int = 0
    exit_code: int | None = None
    exited_at: int = 0
    waiting: list[Callable[[Exec], None]] = field(default_factory=list)
    beginning: list[Callable[[Exec], None]] = field(default_factory=list)
    lasting: list[Callable[[Exec], None]] = field(default_factory=list)
    keeping: Timer | None = None
    kept: bool = False

    @property
    def tty(self) -> bool:
        return bool(self.process.get("terminal", False))

    @property
    def asked(self) -> Mapping[str, Any]:
        """What was asked for when it was created, its streams among that. Only of one with a record."""
        asked: Mapping[str, Any] = self.spec or json.loads(self.record)["spec"]
        return asked


class Execs:
    """The container's execs by id."""

    def __init__(self, container: Container, loop: Loop, signals: Signals, launcher: Launcher) -> None:
        self._container = container
        self._loop = loop
        self._signals = signals
        self.launcher = launcher
        self._table: dict[str, Exec] = {}
        self._ahead = Ahead(loop, container, lambda: self.launcher)
        container.execs_to_keep = self._to_keep
        container.before_end = self._ahead.drop_all
        container.before_all = self._settle_all

    def inherit(self) -> None:
        """Go on with the execs that an earlier shim has left: their output goes nowhere, their codes are heard."""
        for exec_id, descriptors in self._container.execs_left.items():
            descriptor = descriptors.pop(custody.PID)
            streams = Streams(self._loop, stdin_once=True)
            streams.inherit(descriptors, stdin_once=True, log=NoLog())
            one = Exec(exec_id=exec_id, process={"terminal": streams.tty}, open_stdin=False, streams=streams)
            one.phase, one.kept, one.pid = ExecPhase.RUNNING, True, process.pid_of(descriptor)
            one.running = _Inherited(pid=one.pid, pidfd=descriptor)
            self._table[exec_id] = one
            self._signals.watch(one.pid or -descriptor, descriptor, functools.partial(self._ended, one))
        self._container.execs_left = {}

    def register(
        self,
        exec_id: str,
        process: bytes,
        *,
        open_stdin: bool,
        height: int,
        width: int,
        planned: bytes = b"",
        record: bytes = b"",
    ) -> None:
        """Remember what to run, and what that comes to if it is known. The container must run now.

        One that was never started is replaced: whoever was to start it has died, and comes again.
        """
        self._container.running_task()
        if not exec_id:
            raise InvalidArgument("cannot create exec: no id")
        before = self._table.get(exec_id)
        if before is not None and before.phase is not ExecPhase.CREATED:
            raise Conflict(f"cannot create exec {exec_id}: it exists")
        parsed = _parse_process(exec_id, process)
        self._make_room()
        if height and width:
            # It runs before its terminal reaches us, so its size must be right from the start.
            parsed["consoleSize"] = {"height": height, "width": width}
        streams = Streams(self._loop, stdin_once=True, ends_with_process=True)
        streams.resize(height, width)
        one = Exec(exec_id=exec_id, process=parsed, open_stdin=open_stdin, streams=streams, planned=planned)
        one.record = record
        if before is not None:
            self._ahead.drop(before)
            before.streams.finish()
            one.waiting, one.beginning, one.lasting = before.waiting, before.beginning, before.lasting
        self._remember(one)

    def add(self, exec_id: str, *, spec: Mapping[str, Any], planned: bytes, record: bytes) -> Exec:
        """Remember a new one, without a terminal, whose plan says all. The container must run now."""
        self._container.running_task()
        self._make_room()
        streams = Streams(self._loop, stdin_once=True, ends_with_process=True)
        open_stdin = spec.get("attach_stdin") is True
        one = Exec(exec_id=exec_id, process={"terminal": False}, open_stdin=open_stdin, streams=streams)
        one.planned, one.record, one.spec = planned, record, spec
        self._remember(one)
        return one

    def _remember(self, one: Exec) -> None:
        self._table[one.exec_id] = one
        # Whoever has told us of it is answered first.
        self._loop.later(0, lambda: self._make_ahead(one))

    def find(self, exec_id: str) -> Exec:
        """It is known how it began, if it has. Raises NotFound with Docker's text."""
        found = self._table.get(exec_id)
        if found is None:
            raise NotFound(f"No such exec instance: {exec_id}")
        self._settle(found)
        return found

    def ids(self) -> list[str]:
        """Those that run."""
        return [one.exec_id for one in self._table.values() if one.phase is ExecPhase.RUNNING]

    def on_record(self) -> Iterator[Exec]:
        """Those with a record, the newest first, as many as can be told of at a time."""
        size = 0
        for one in reversed(self._table.values()):
            size += len(one.record)
            if size > _MOST_TOLD:
                return
            if one.record:
                yield one

    def startable(self, exec_id: str) -> Exec:
        """The exec, if it may be started now; Docker's texts if not."""
        found = self.find(exec_id)
        if found.phase is ExecPhase.RUNNING:
            raise Conflict(f"Error: Exec command {exec_id} is already running")
        if found.phase is ExecPhase.EXITED:
            raise Conflict(f"Error: Exec command {exec_id} has already run")
        self._container.running_task()
        return found

    def start(
        self, one: Exec, *, stdin: bool, stdout: bool, stderr: bool, begun: Callable[[], None] | None = None
    ) -> None:
        """Run it; streams that are not wanted are /dev/null. LaunchFailed is kept as its exit code.

        `begun` is called once, before there is anything to tell of it: while it comes up, as a rule.
        """
        begins = _Once(begun)
        task = self._container.running_task()
        streams = one.streams
        failpoints.hit("shim.exec.begun")
        one.started_at = time.time_ns()
        wanted = {"stdin": stdin and one.open_stdin, "stdout": stdout, "stderr": stderr}
        made = self._ahead.take(one, task, **wanted)
        stdio = streams.open(tty=one.tty, lasting=True, **wanted) if made is None else made.stdio
        try:
            running = self.launcher.exec(
                task=task,
                data_dir=self._container.identity.data_dir,
                process=one.process,
                stdio=stdio,
                planned=one.planned,
                ready=None if made is None else made.ready,
                begun=begins,
                # Whose client has his answer and hears no more of it is not to be disturbed on its way to its program.
                settled=begun is None or bool(one.beginning),
            )
        except BaseException as error:
            begins()
            self._failed(one, error)
            raise
        finally:
            if made is not None:
                made.ready.close()
        failpoints.hit("shim.exec.launched")
        streams.launched(running.console)
        one.running, one.pid = running, running.pid
        one.phase = ExecPhase.RUNNING
        self._signals.watch(running.pid, running.pidfd, lambda: self._ended(one))
        one.keeping = self._loop.later(_KEEP_AFTER, lambda: self._keep(one))
        _tell(one.beginning, one)

    def _settle(self, one: Exec) -> None:
        """What has begun may have failed to: nobody who asks is told that it runs then."""
        if one.running is None:
            return
        try:
            one.running.settle()
        except BulkheadError as error:
            self._signals.forget(one.pid, one.running.pidfd)
            one.pid = 0
            self._failed(one, error)

    def _settle_all(self) -> None:
        for one in tuple(self._table.values()):
            self._settle(one)

    def _failed(self, one: Exec, error: BaseException) -> None:
        one.streams.abandon()
        # Docker tells an attached client as output of the process that never was.
        one.streams.say(f"{error}\r\n".encode())
        self._conclude(one, error.exec_exit_code if isinstance(error, LaunchFailed) else 126)

    def kill(self, exec_id: str, number: int) -> None:
        """Signal its process."""
        found = self.find(exec_id)
        if found.running is None:
            raise Conflict(f"exec {exec_id} is not running")
        if not 1 <= number <= signal.SIGRTMAX:
            raise InvalidArgument(f"cannot kill exec {exec_id}: invalid signal {number}")
        try:
            signal.pidfd_send_signal(found.running.pidfd, number)
        except ProcessLookupError:
            raise Conflict(f"exec {exec_id} is not running") from None

    def when_exited(self, exec_id: str, hear: Callable[[Exec], None]) -> None:
        """Call `hear` when it has ended; at once if it has."""
        found = self.find(exec_id)
        if found.phase is ExecPhase.EXITED:
            hear(found)
        else:
            found.waiting.append(hear)

    def when_begun(self, exec_id: str, hear: Callable[[Exec], None]) -> None:
        """Call `hear` when it has begun, at once if it has; one that is forgotten never will."""
        found = self.find(exec_id)
        if found.phase is ExecPhase.CREATED:
            found.beginning.append(hear)
        else:
            hear(found)

    def when_lasting(self, exec_id: str, hear: Callable[[Exec], None]) -> None:
        """Call `hear` when it has run for a while or ended, at once if it has; one that is forgotten never will."""
        found = self.find(exec_id)
        if found.kept or found.phase is ExecPhase.EXITED:
            hear(found)
        else:
            found.lasting.append(hear)

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for what becomes of one."""
        return any(
            one.waiting or one.beginning or (one.lasting and one.phase is not ExecPhase.CREATED)
            for one in self._table.values()
        )

    @property
    def busy(self) -> bool:
        """Whether somebody still has output to receive."""
        return any(one.streams.busy for one in self._table.values())

    def drop_peers(self) -> None:
        """Hang up on whoever is attached to one."""
        for one in self._table.values():
            one.streams.drop_peers()

    def conclude_all(self) -> None:
        """The container has ended: what was never started never will be."""
        for one in tuple(self._table.values()):
            if one.phase is ExecPhase.CREATED:
                self._conclude(one, 128)

    def _make_ahead(self, one: Exec) -> None:
        if not one.started_at and self._table.get(one.exec_id) is one:
            self._ahead.make(one)

    def _keep(self, one: Exec) -> None:
        self._settle(one)
        if one.phase is not ExecPhase.RUNNING:
            return
        one.kept = True
        one.streams.lasts()
        self._container.custody.changed()
        _tell(one.lasting, one)

    def _to_keep(self) -> dict[str, int]:
        kept: dict[str, int] = {}
        for one in self._table.values():
            if one.kept and one.running is not None and len(kept) < _MOST_KEPT:
                own = {custody.PID: one.running.pidfd} | one.streams.to_keep(_nothing)
                kept |= {f"{custody.EXEC}{one.exec_id} {name}": descriptor for name, descriptor in own.items()}
        return kept

    def _ended(self, one: Exec, tries: int = REAP_TRIES) -> None:
        self._settle(one)
        if one.running is None:
            return
        code = self._exit_code(one.running)
        if code is None and tries:
            self._loop.later(REAP_POLL, lambda: self._ended(one, tries - 1))
            return
        if code is None:
            lost = Loss(what=Lost.EXEC_EXIT_CODE.value, since=one.started_at, until=time.time_ns())
            self._container.note_losses((lost,))
        one.streams.drain(lambda: self._conclude(one, UNKNOWN_EXIT if code is None else code))

    def _exit_code(self, running: Process) -> int | None:
        """None while nobody can tell: an inherited process is another's to reap."""
        try:
            return self.launcher.reap(running.pidfd)
        except ChildProcessError:
            code = inheritance.exit_code(running.pidfd)
            return process.zombie_exit_code(running.pid) if code is None else code

    def _conclude(self, one: Exec, code: int) -> None:
        self._ahead.drop(one)
        one.phase, one.exit_code, one.exited_at = ExecPhase.EXITED, code, time.time_ns()
        if one.keeping is not None:
            one.keeping.cancel()
        if one.running is not None:
            os.close(one.running.pidfd)
            one.running = None
        if one.kept:
            self._container.custody.changed()
        failpoints.hit("shim.exec.ended")
        # First whoever is asked for the code: that is next for who hears the end of his stream.
        _tell(one.beginning, one)
        _tell(one.waiting, one)
        _tell(one.lasting, one)
        one.streams.finish()
        one.process, one.planned, one.spec = {"terminal": one.tty}, b"", None
        # Last in the table's order is last to be forgotten.
        self._table[one.exec_id] = self._table.pop(one.exec_id)
        ended = [other for other in self._table.values() if other.phase is ExecPhase.EXITED]
        for number, old in enumerate(reversed(ended)):
            if number >= _KEPT_ENDED or old.exited_at < one.exited_at - _REMEMBERED:
                self.forget(old)

    def forget(self, one: Exec) -> None:
        """Nobody was told of it, or nobody asks for it any more."""
        if self._table.get(one.exec_id) is one:
            self._ahead.drop(one)
            del self._table[one.exec_id]
            _tell(one.beginning, one)
            _tell(one.lasting, one)

    def _make_room(self) -> None:
        if len(self._table) < _MOST:
            return
        for one in self._table.values():
            if one.phase is not ExecPhase.RUNNING:
                self.forget(one)
                return
        raise ResourceExhausted(f"cannot create exec: {_MOST} of them run already")


class _Inherited:
    """`ports.Further` of an earlier shim."""

    console: int | None = None
    warnings: tuple[str, ...] = ()

    def __init__(self, *, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd

    def settle(self) -> None:
        """It was."""


class _Once:
    """Does something the first time that it is called."""

    def __init__(self, act: Callable[[], None] | None) -> None:
        self._act = act

    def __call__(self) -> None:
        act, self._act = self._act, None
        if act is not None:
            act()


def _tell(listeners: list[Callable[[Exec], None]], one: Exec) -> None:
    """Each once."""
    told = listeners.copy()
    listeners.clear()
    for hear in told:
        hear(one)


def _nothing() -> None:
    """An exec's stdin is never kept."""


def _parse_process(exec_id: str, text: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise InvalidArgument(f"cannot create exec {exec_id}: its process is not JSON: {error}") from error
    if not isinstance(parsed, dict) or not parsed.get("args"):
        raise InvalidArgument("No exec command specified")
    if parsed.get("oomScoreAdj") is None:
        parsed["oomScoreAdj"] = 0
    return parsed
