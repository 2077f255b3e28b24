"""The container's health check, run by its shim: it goes on while every daemon is down.

    <data_dir>/healthcheck.json    what to run, and when; the manager's, absent when there is nothing to check
    <data_dir>/health.json         what came of it (`model.health.Health`), replaced after each probe

One probe runs at a time. One that takes too long is killed with its children.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from bulkhead.errors import BulkheadError
from bulkhead.linux import atomicfile
from bulkhead.model.health import (
    FAILED,
    LONGEST_OUTPUT,
    Health,
    ProbeResult,
    Schedule,
    decode_health,
    encode_health,
    judged,
    shown_duration,
)
from bulkhead.shim.loop import Loop, Signals, Timer
from bulkhead.shim.ports import Launcher, Process, Task
from bulkhead.shim.sinks import NoLog
from bulkhead.shim.stdio import Streams

CHECK, RECORD = "healthcheck.json", "health.json"
_LIMIT = 4 << 20
_SECOND = 1_000_000_000
_KILL_ROUNDS = 10
Hear = Callable[[Health], None]
Report = Callable[[str, BaseException], None]


class HealthMonitor:
    """Probes one run of a container from `begin` to `end`."""

    def __init__(self, loop: Loop, signals: Signals, launcher: Launcher, data_dir: str, report: Report) -> None:
        self._loop = loop
        self._signals = signals
        self._launcher = launcher
        self._data_dir = data_dir
        self._report = report
        self._process: dict[str, Any] = {}
        self._schedule = Schedule()
        self._health = Health()
        self._task: Task | None = None
        self._timer: Timer | None = None
        self._probe: _Probe | None = None
        self._paused = False
        self._ended = False
        self._waiting: list[tuple[int, Hear]] = []

    def begin(self, task: Task, started_at: int, *, paused: bool = False) -> None:
        """Probe `task` from now on. A shim that adopts a run goes on where the last one was."""
        told = json.loads(atomicfile.read(f"{self._data_dir}/{CHECK}", _LIMIT))
        self._process = told.pop("process")
        self._schedule = Schedule(**told)
        before = read_health(self._data_dir)
        if before is None or before.started_at != started_at:
            before = Health(log=before.log if before else (), started_at=started_at)
        self._health, self._task, self._paused = before, task, paused
        self._plan()

    def pause(self) -> None:
        """The container is frozen: no probe could end."""
        self._paused = True
        self._cancel()
        if self._probe is not None:
            self._probe.rest()

    def resume(self) -> None:
        self._paused = False
        if self._probe is not None:
            self._probe.go_on()
        else:
            self._plan()

    def end(self) -> None:
        """The container has ended; so has its probe. Who waits for news hears that there will be none."""
        if self._ended:
            return
        self._ended = True
        self._cancel()
        if self._probe is not None:
            self._probe.abandon()
            self._probe = None
        waiting, self._waiting = self._waiting, []
        for _, hear in waiting:
            hear(self._health)

    def when_news(self, after: int, hear: Hear) -> None:
        """Call `hear` with the health once its revision is past `after`, or at the end of the run."""
        if self._ended or self._health.revision > after:
            hear(self._health)
        else:
            self._waiting.append((after, hear))

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _plan(self) -> None:
        if not self._paused and not self._ended and self._timer is None:
            seconds = self._schedule.pause(self._health, time.time_ns()) / _SECOND
            self._timer = self._loop.later(seconds, self._run)

    def _run(self) -> None:
        self._timer = None
        assert self._task is not None
        probe = _Probe(self._loop, self._signals, self._launcher, self._task, self._schedule.patience, self._judge)
        self._probe = probe
        probe.start(self._data_dir, self._process)

    def _judge(self, result: ProbeResult) -> None:
        self._probe = None
        self._health = judged(self._health, result, self._schedule)
        try:
            write_health(self._data_dir, self._health)
        except OSError as error:
            # It is in memory still, and told to whoever asks.
            self._report("cannot write the health record", error)
        self._tell()
        self._plan()

    def _tell(self) -> None:
        ready = [hear for after, hear in self._waiting if self._health.revision > after]
        self._waiting = [each for each in self._waiting if self._health.revision <= each[0]]
        for hear in ready:
            hear(self._health)


class _Output(NoLog):
    """The first bytes that a probe says."""

    def __init__(self) -> None:
        super().__init__()
        self._kept = b""
        self._more = False

    def write(self, _stream: int, chunk: bytes) -> None:
        room = LONGEST_OUTPUT - len(self._kept)
        self._kept += chunk[:room]
        self._more = self._more or len(chunk) > room

    def text(self) -> str:
        return self._kept.decode(errors="replace") + ("..." if self._more else "")


class _Probe:
    """One process in the container, from its start to its verdict."""

    def __init__(
        self,
        loop: Loop,
        signals: Signals,
        launcher: Launcher,
        task: Task,
        patience: int,
        done: Callable[[ProbeResult], None],
    ) -> None:
        self._loop = loop
        self._signals = signals
        self._launcher = launcher
        self._task = task
        self._patience = patience
        self._done: Callable[[ProbeResult], None] | None = done
        self._id = os.urandom(32).hex()
        self._started = time.time_ns()
        self._output = _Output()
        self._streams = Streams(loop)
        self._running: Process | None = None
        self._pipes: frozenset[str] = frozenset()
        self._timer: Timer | None = None
        self._late = False

    def start(self, data_dir: str, process: dict[str, Any]) -> None:
        """Run it; a probe that cannot run has failed."""
        try:
            self._streams.log = self._output
            stdio = self._streams.open(tty=False, stdin=False)
            self._pipes = frozenset(f"pipe:[{os.fstat(fd).st_ino}]" for fd in (stdio.stdout, stdio.stderr))
            running = self._launcher.exec(task=self._task, data_dir=data_dir, process=process, stdio=stdio)
        except (BulkheadError, OSError) as error:
            self._streams.abandon()
            text = str(error)
            self._loop.later(0, lambda: self._conclude(FAILED, text))
            return
        self._streams.launched(None)
        self._running = running
        self._signals.watch(running.pid, running.pidfd, self._ended)
        self.go_on()

    def rest(self) -> None:
        """Time does not count while the container is frozen."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def go_on(self) -> None:
        if self._running is not None and self._timer is None and not self._late:
            self._timer = self._loop.later(self._patience / _SECOND, self._give_up)

    def abandon(self) -> None:
        """Its result is of no interest any more; the container's end is its own."""
        self._done = None
        self.rest()
        running, self._running = self._running, None
        if running is not None:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(running.pidfd, signal.SIGKILL)
            self._signals.forget(running.pid, running.pidfd)
            os.close(running.pidfd)
        self._streams.abandon()

    def _give_up(self) -> None:
        self._timer, self._late = None, True
        self._kill_family()

    def _kill_family(self) -> None:
        """The probe, its descendants, and whoever of the container still holds its output: they began as its own."""
        assert self._running is not None
        with contextlib.suppress(OSError):
            # No more children while it is looked for them.
            signal.pidfd_send_signal(self._running.pidfd, signal.SIGSTOP)
        dead: set[int] = set()
        for _ in range(_KILL_ROUNDS):
            found = self._family() - dead
            if not found:
                break
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            dead |= found
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._running.pidfd, signal.SIGKILL)

    def _family(self) -> set[int]:
        assert self._running is not None
        try:
            members = self._task.cgroup.pids()
        except OSError:
            members = []
        parents = {pid: _parent(pid) for pid in members}
        found = {pid for pid in members if pid != self._task.pid and _holds(pid, self._pipes)}
        young = {self._running.pid} | found
        while young:
            young = {pid for pid, parent in parents.items() if parent in young} - found
            found |= young
        return found - {self._task.pid, self._running.pid}

    def _ended(self) -> None:
        assert self._running is not None
        try:
            code = self._launcher.reap(self._running.pidfd)
        except ChildProcessError:
            code = None
        os.close(self._running.pidfd)
        self._running = None
        self.rest()
        if self._late:
            text = f"Health check exceeded timeout ({shown_duration(self._patience)})"
            self._streams.drain(lambda: self._conclude(FAILED, ": ".join(filter(None, (text, self._output.text())))))
        else:
            self._streams.drain(lambda: self._conclude(FAILED if code is None else code, self._output.text()))

    def _conclude(self, code: int, output: str) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(ProbeResult(exec_id=self._id, start=self._started, end=time.time_ns(), exit_code=code, output=output))


def read_health(data_dir: str) -> Health | None:
    """The record that a shim has left, None when there is none that can be read."""
    try:
        return decode_health(atomicfile.read(f"{data_dir}/{RECORD}", _LIMIT))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def write_health(data_dir: str, health: Health) -> None:
    """Not synced: a power loss takes the container, too. Raises OSError."""
    atomicfile.write(f"{data_dir}/{RECORD}", encode_health(health), durable=False)


def _parent(pid: int) -> int:
    try:
        text = atomicfile.read(f"/proc/{pid}/stat", 4096)
        return int(text[text.rindex(b")") + 2 :].split()[1])
    except (OSError, ValueError):
        return 0


def _holds(pid: int, pipes: frozenset[str]) -> bool:
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 -- see linux.atomicfile
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/{name}") in pipes:  # noqa: PTH115
                    return True
    return False
