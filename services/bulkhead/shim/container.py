"""The container: created, started, ended, each at most once in a shim's life; other orders change nothing.

An end is told in this order: the process is reaped, its output is read to the last byte and logged,
the exit record is durable (`exit_telling`), then everybody who waits hears of it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from bulkhead import failpoints
from bulkhead.errors import (
    BulkheadError,
    Conflict,
    Internal,
    InvalidArgument,
    LaunchFailed,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from bulkhead.linux import overlay, process
from bulkhead.model.losses import Loss, Lost, joined
from bulkhead.model.refusals import reason
from bulkhead.shim import bundle, custody, ends, inheritance
from bulkhead.shim.attendance import Attendance
from bulkhead.shim.create_options import CreateOptions, log_options, record_of
from bulkhead.shim.custody import Custody, Estate
from bulkhead.shim.exit_telling import ExitTelling
from bulkhead.shim.exits import UNKNOWN_EXIT, ExitRecord, Facts, TaskRecord
from bulkhead.shim.followers import Followers
from bulkhead.shim.held import HeldRoot
from bulkhead.shim.identity import Identity
from bulkhead.shim.lifecycle import MOVES, Move, Phase
from bulkhead.shim.log_choice import open_sink
from bulkhead.shim.loop import Loop, Signals
from bulkhead.shim.ports import Cgroup, Launcher, Rootfs, Task
from bulkhead.shim.sinks import LogSink, NoLog
from bulkhead.shim.stdio import Streams

if TYPE_CHECKING:
    from bulkhead.shim.health import HealthMonitor

# How long the root of a container that has ended stays mounted while nobody has its shim leave.
_UNLEFT = 5.0
# For the root of its last run to be unmounted; less than who asks for a create waits for its answer (seconds).
UNMOUNT_PATIENCE = 45.0
# Beside the bundle, when there is something to check; see `bulkhead.shim.health`.
_HEALTHCHECK = "healthcheck.json"


class Container:
    """One container's life. Made before it is known whose it is: `claim` comes first."""

    def __init__(
        self, loop: Loop, signals: Signals, launcher: Launcher, report: Callable[[str, BaseException], None]
    ) -> None:
        self.identity = Identity("", "", "")
        self.phase = Phase.NEW
        self.streams = Streams(loop)
        self.followers = Followers(loop)
        self.custody = Custody(loop, self._estate)
        self.exit: ExitRecord | None = None
        # Whether another shim has died in the middle of this container's run.
        self.has_succeeded = False
        self._loop = loop
        self._signals = signals
        self.launcher = launcher
        self._report = report
        self._facts = Facts("")
        self._log: LogSink = NoLog()
        self._task: Task | None = None
        self._root = HeldRoot()
        self._record: TaskRecord | None = None
        self._from_disk = False
        self._ending = False
        self.telling = ExitTelling(loop, report)
        # Whether the process that was created is on its way to its program, and not parked.
        self._has_gone_on = False
        # The pidfd of a process that has ended while nobody was its shim.
        self._remains = -1
        self._attendance = Attendance(loop, report)
        self.health: HealthMonitor | None = None
        # What execs have to keep, and what an earlier shim's execs have left; see `Execs`.
        self.execs_to_keep: Callable[[], dict[str, int]] = dict
        # Called before the end is looked at, and what is left of the container goes.
        self.before_end: Callable[[], None] = _nothing
        # Called before something is done to all of its processes.
        self.before_all: Callable[[], None] = _nothing
        self.execs_left: Mapping[str, dict[str, int]] = {}

    def claim(self, identity: Identity, estate: Estate | None = None) -> None:
        """Be this container, and find out what an earlier shim of it left: nothing, an exit, or a live process.

        `estate` are that shim's descriptors, which are ours from now on.
        """
        self.identity = identity
        self.custody.claim(identity)
        self._facts = Facts(identity.data_dir)
        record = self._facts.read_task()
        self.exit = self._facts.read_exit()
        # Who wrote it may have died before it was durable.
        self.telling.claim(self._facts, is_durable=self.exit is None)
        if self.exit is not None:
            self._record, self.phase, self._from_disk = record, Phase.EXITED, True
        elif record is not None:
            self._record = record
            self._succeed(record, estate)
            estate = None
        if estate is not None:
            estate.close()

    # Facts

    @property
    def pid(self) -> int:
        """Of the first process, 0 before there is one."""
        return self._record.pid if self._record is not None else 0

    @property
    def start_time(self) -> int:
        return self._record.start_time if self._record is not None else 0

    @property
    def has_begun(self) -> bool:
        """Whether this shim has, or has had, a process of the container's."""
        return self.phase is not Phase.NEW and not self._from_disk

    @property
    def started_at(self) -> int:
        if self.exit is not None:
            return self.exit.started_at
        return self._record.started_at if self._record is not None and self.phase is not Phase.CREATED else 0

    @property
    def losses(self) -> tuple[Loss, ...]:
        """What deaths have taken of this run."""
        return self._record.losses if self._record is not None else ()

    @property
    def tty(self) -> bool:
        """Whether the container has, or will have, a terminal."""
        if self._task is not None:
            return self.streams.tty
        try:
            return bundle.wants_terminal(self.identity.data_dir)
        except InvalidArgument:
            return False

    # Life

    def create(self, options: CreateOptions, *, parked: bool = True) -> Task:
        """Bring the container up to the point before exec; its first process. It is `parked` there, or `start` is next.

        Raises LaunchFailed and whatever the launcher raises; nothing is left then.
        """
        created = self._after(Move.CREATE, Phase.NEW if self._from_disk else None)
        terminal = bundle.wants_terminal(self.identity.data_dir)
        if self._from_disk:
            self.remove()
        with ExitStack() as undo:
            task = self._launch(terminal, options, undo, parked=parked)
            if not self._has_gone_on:
                self._parked(options, parked=parked)
            undo.pop_all()
        self.phase, self.exit, self._from_disk = created, None, False
        self._signals.watch(task.pid, task.pidfd, self._ended)
        return task

    def start(self) -> int:
        """Let it exec; when it did, in Unix nanoseconds. After LaunchFailed the container has exited."""
        running = self._after(Move.START)
        assert self._task is not None
        if not self._has_gone_on:
            self._record_start()
        try:
            self._task.start()
        except LaunchFailed as failure:
            self._fail_start(failure)
            raise
        failpoints.hit("shim.start.started")
        self.phase = running
        self._check_health()
        return self.started_at

    def pause(self) -> None:
        """Freeze every process of the container. Nothing happens to one that is frozen: who asks was cut off before."""
        if self.phase is Phase.PAUSED:
            return
        self.before_all()
        self._set_frozen(Move.PAUSE, frozen=True)
        if self.health is not None:
            self.health.pause()

    def resume(self) -> None:
        if self.phase is Phase.RUNNING and not self._ending:
            return
        self._set_frozen(Move.RESUME, frozen=False)
        if self.health is not None:
            self.health.resume()

    def kill(self, number: int, *, everyone: bool = False) -> None:
        """Send a signal to the first process, or to every process of the container's cgroup."""
        task = self._alive()
        if not 1 <= number <= signal.SIGRTMAX:
            raise InvalidArgument(f"cannot kill container {self.identity.short_id}: invalid signal {number}")
        if everyone:
            failpoints.hit("shim.kill.begun")
            self.before_all()
            ends.kill_everyone(task, number)
        else:
            try:
                task.signal(number)
            except ProcessLookupError:
                raise self._not_running() from None
        if number == signal.SIGKILL:
            # A process in a frozen v1 cgroup dies only when it is thawed, whoever froze it.
            with contextlib.suppress(OSError):
                task.cgroup.thaw()

    def pids(self) -> list[int]:
        """Every process of the container, in the host's pid namespace."""
        return list(self._alive().cgroup.pids())

    def running_task(self) -> Task:
        """The task that an exec may join; Conflict when it does not run or is paused."""
        task = self._alive()
        if self.phase is Phase.PAUSED:
            raise Conflict(f"Container {self.identity.container_id} is paused, unpause the container before exec")
        if self.phase is not Phase.RUNNING or self._ending:
            raise self._not_running()
        return task

    def serve_names(self, directory: str) -> None:
        """Answer DNS in the container's network namespace from the files in `directory`. Raises Unavailable."""
        self._alive()
        self._attendance.serve_names(directory, self.identity.container_id, self.pid)

    def relay(self, ways: Sequence[tuple[str, str, int, str, int]]) -> None:
        """Carry what comes to ports of the host into the container: `shim.relay.Way`s. Raises Unavailable.

        Before there is a container, too: whoever comes early is let in once it listens, or refused.
        """
        if self.phase is Phase.EXITED and not self._from_disk:
            raise self._not_running()
        self._attendance.relay(ways)

    def rest(self) -> None:
        """Nothing has been asked for a while: let go of what comes back by itself."""
        self._log.rest()
        if self._task is not None:
            self._task.rest()

    def when_exited(self, hear: Callable[[ExitRecord], None], records: Callable[[], bool] | None = None) -> None:
        """Call `hear` with the exit record once it is durable; at once if it is.

        Who `records` the exit himself need not wait for that.
        """
        if self.phase is not Phase.EXITED or self.exit is None:
            self.telling.hear(hear, records)
        else:
            self.telling.hear_now(self.exit, hear, records)

    @property
    def holds_root(self) -> bool:
        """Whether the root of a container that has ended is mounted for our sake."""
        return self._root.is_held

    def close_all_but_root(self) -> None:
        """Every descriptor of this process, which is about to end: nobody shall wait for a disk to be hung up on."""
        self._root.close_all_others()

    def let_go_of_root(self) -> None:
        """Blocking, for as long as its disk takes."""
        self._root.drop()

    def remove(self) -> None:
        """Give back the cgroup and the descriptors of a container that is not alive."""
        task, self._task = self._task, None
        try:
            if task is not None:
                task.cgroup.remove()
                task.close()
            elif self._record is not None and self._record.cgroup:
                self.launcher.release(
                    container_id=self.identity.container_id,
                    data_dir=self.identity.data_dir,
                    cgroup=self._record.cgroup,
                    runtime=self._record.runtime,
                )
        except (OSError, BulkheadError) as error:
            self._report("cannot remove the cgroup", error)

    # Inside: birth

    def _after(self, move: Move, phase: Phase | None = None) -> Phase:
        now = phase or self.phase
        then = MOVES[now].get(move)
        if then is None or self._ending:
            raise Conflict(f"cannot {move.value} container {self.identity.short_id}: it is {now.value}")
        return then

    def _succeed(self, record: TaskRecord, estate: Estate | None) -> None:
        """Go on where another shim has died."""
        self.has_succeeded = True
        lives = self._adopt(record)
        legacy = inheritance.claim(record, estate, self._pids)
        lost = inheritance.losses(record, legacy)
        if lost:
            self.note_losses(lost)
        self.execs_left = inheritance.execs(legacy.streams)
        self._inherit_streams(record, legacy.streams)
        if lives:
            if legacy.pidfd >= 0:
                os.close(legacy.pidfd)
            return
        # Kept until the end is told: this shim may die, too.
        self._remains = legacy.pidfd
        code = inheritance.exit_code(legacy.pidfd)
        # A run that was never started has nothing else to tell either.
        self.phase, self._from_disk, self._ending = Phase.RUNNING, True, True
        self._end_the_rest()
        self.streams.drain(lambda: self._conclude_inherited(code))

    def _conclude_inherited(self, code: int | None) -> None:
        # A new life may begin here, unlike after an end that this shim has seen.
        self._ending = False
        self._conclude(code)

    def note_losses(self, lost: tuple[Loss, ...]) -> None:
        """Stated by this shim and by those after it. One for each kind: shims and execs come without end."""
        assert self._record is not None
        self._record = replace(self._record, losses=joined(self._record.losses, lost))
        try:
            self._facts.write_task(self._record)
        except OSError as error:
            self._report("cannot note what is lost", error)

    def _pids(self) -> Sequence[int]:
        try:
            group = self._group()
            return () if group is None else group.pids()
        except OSError:
            return ()

    def _group(self) -> Cgroup | None:
        """The container's cgroup, also when another shim has made it."""
        if self._task is not None:
            return self._task.cgroup
        return self.launcher.group(self._record.cgroup) if self._record is not None and self._record.cgroup else None

    def _inherit_streams(self, record: TaskRecord, streams: Mapping[str, int]) -> None:
        try:
            self._log = open_sink(
                log_options(record),
                streams,
                self.streams,
                self._loop,
                self.followers.grown,
                terminal=custody.CONSOLE in streams,
            )
        except (ResourceExhausted, Internal) as error:
            self._report("cannot go on with the log", error)
            # For the rest of the run, and what waited for it.
            self.note_losses((Loss(what=Lost.LOG.value, since=inheritance.last_written(record)),))
        self.streams.inherit(streams, stdin_once=record.stdin_once, log=self._log)

    def _estate(self) -> Estate:
        pidfd = self._remains if self._task is None else self._task.pidfd
        if pidfd < 0 or self.phase in (Phase.NEW, Phase.EXITED):
            return Estate()
        kept = {custody.PID: pidfd} | self.streams.to_keep(self.custody.changed)
        kept |= self.execs_to_keep()
        return Estate(pid=self.pid, start_time=self.start_time, descriptors=kept)

    def _adopt(self, record: TaskRecord) -> bool:
        """Whether the process in the record still lives; it is ours then."""
        if record.boot_id != process.boot_id():
            return False
        try:
            task = self.launcher.adopt(
                container_id=self.identity.container_id,
                data_dir=self.identity.data_dir,
                pid=record.pid,
                start_time=record.start_time,
                cgroup=record.cgroup,
                runtime=record.runtime,
            )
        except NotFound:
            return False
        self._task = task
        # The kernel's word: the record was written a moment before it was done.
        self.phase = Phase.PAUSED if task.cgroup.is_frozen() else Phase.RUNNING
        self._signals.watch(record.pid, task.pidfd, self._ended)
        self._check_health()
        return True

    def _check_health(self) -> None:
        """Begin to probe, where the manager has said how. Most containers never load the module."""
        if not os.path.exists(f"{self.identity.data_dir}/{_HEALTHCHECK}"):  # noqa: PTH110 -- see linux.atomicfile
            return
        from bulkhead.shim.health import HealthMonitor

        assert self._task is not None
        try:
            monitor = HealthMonitor(self._loop, self._signals, self.launcher, self.identity.data_dir, self._report)
            monitor.begin(self._task, self.started_at, paused=self.phase is Phase.PAUSED)
        except (OSError, ValueError, TypeError, KeyError) as error:
            self._report("cannot check the container's health", error)
            return
        self.health = monitor

    def _begin(self, undo: ExitStack) -> None:
        try:
            self.telling.begin()
        except OSError as error:
            raise ResourceExhausted(f"cannot reserve the exit record: {reason(error)}") from error
        undo.callback(self._facts.abandon)

    def _parked(self, options: CreateOptions, *, parked: bool) -> None:
        failpoints.hit("shim.create.launched")
        # What a foreign runtime has parked outlives us, and is let go of by this record.
        if parked or options.runtime:
            assert self._record is not None
            self._write_record(self._record)
        failpoints.hit("shim.create.recorded")

    def _record_start(self) -> None:
        """Before the go: a process that is not told to go on dies with its shim, so one that lives has been started."""
        assert self._record is not None
        failpoints.hit("shim.start.begun")
        record = replace(self._record, started_at=time.time_ns())
        self._write_record(record)
        self._record = record
        failpoints.hit("shim.start.recorded")

    def _launch(self, terminal: bool, options: CreateOptions, undo: ExitStack, *, parked: bool) -> Task:
        if self._from_disk and options.rootfs is not None:
            self._await_unmounted(options.rootfs)
        self._has_gone_on = False
        self.streams.stdin_once = options.stdin_once
        self.streams.resize(options.height, options.width)
        stdio = self.streams.open(tty=terminal, stdin=options.open_stdin, lasting=True)
        undo.callback(self.streams.abandon)
        begun = partial(self._take, terminal=terminal, options=options, undo=undo)

        def go(task: Task, root: int) -> None:
            self._root.keep(root, options.rootfs)
            undo.callback(self._root.drop)
            self._parked(options, parked=False)
            self._record_start()
            self._has_gone_on = True

        task = self.launcher.create(
            container_id=self.identity.container_id,
            data_dir=self.identity.data_dir,
            terminal=terminal,
            rootfs=options.rootfs,
            stdio=stdio,
            runtime=options.runtime,
            planned=options.planned,
            network=options.network,
            begun=begun,
            go=None if parked else go,
        )
        undo.callback(self._discard, task)
        if options.rootfs is not None and not self._has_gone_on:
            self._root.take(task, options.rootfs)
            undo.callback(self._root.drop)
        console, task.console = task.console, None
        self.streams.launched(console)
        if self._task is not task:
            begun(task)
        elif console is not None:
            self.custody.changed()
        return task

    def _await_unmounted(self, rootfs: Rootfs) -> None:
        try:
            overlay.await_unused(rootfs.work, UNMOUNT_PATIENCE)
        except TimeoutError as error:
            raise Unavailable(
                f"cannot start container {self.identity.short_id}: "
                "the disk is still writing what its last run left, try again"
            ) from error

    def _take(self, task: Task, *, terminal: bool, options: CreateOptions, undo: ExitStack) -> None:
        """All that there is to be done for a process that is known, though it may not be ready."""
        self._begin(undo)
        failpoints.hit("shim.create.reserved")
        log = open_sink(options, None, self.streams, self._loop, self.followers.grown, terminal=terminal)
        undo.callback(log.close)
        failpoints.hit("shim.create.logging")
        undo.callback(self._give_up, self._record, self.phase)
        self.streams.log = self._log = log
        self._task, self.phase = task, Phase.CREATED
        self._record = record_of(task, options, self.streams.pipes(), terminal=terminal)
        self.custody.changed()

    def _give_up(self, record: TaskRecord | None, phase: Phase) -> None:
        self._task, self._record, self.phase = None, record, phase
        self.streams.log = self._log = NoLog()
        self.custody.changed()

    def _discard(self, task: Task) -> None:
        try:
            ends.end_unwanted(task)
        except OSError as error:
            self._report("cannot remove the cgroup", error)

    def _write_record(self, record: TaskRecord) -> None:
        try:
            self._facts.write_task(record)
        except OSError as error:
            raise ResourceExhausted(f"cannot write the task record: {reason(error)}") from error

    # Inside: the freezer and signals

    def _set_frozen(self, move: Move, *, frozen: bool) -> None:
        then = self._after(move)
        assert self._task is not None and self._record is not None
        failpoints.hit("shim.pause.begun")
        record = replace(self._record, paused=frozen)
        self._write_record(record)
        try:
            failpoints.hit("shim.pause.recorded")
            if frozen:
                self._task.cgroup.freeze()
            else:
                self._task.cgroup.thaw()
        except BaseException:
            self._write_record(self._record)
            raise
        failpoints.hit("shim.pause.frozen")
        self.phase, self._record = then, record

    def _alive(self) -> Task:
        if self._task is None or self.phase in (Phase.NEW, Phase.EXITED):
            raise self._not_running()
        return self._task

    def _not_running(self) -> Conflict:
        return Conflict(f"container {self.identity.container_id} is not running")

    # Inside: the end

    def _fail_start(self, failure: LaunchFailed) -> None:
        """The exec failed: the parked process ends with nothing to say. Its exit is the launch's."""
        assert self._task is not None
        self._ending = True
        self._attendance.end()
        self._signals.forget(self._task.pid, self._task.pidfd)
        with contextlib.suppress(ChildProcessError):
            self.launcher.reap(self._task.pidfd)
        self.streams.drain(lambda: self._conclude(failure.exit_code))

    def _ended(self, tries: int = ends.REAP_TRIES) -> None:
        """The first process is gone; whoever is left of the container goes too."""
        assert self._task is not None
        self._ending = True
        self.before_end()
        self._attendance.end()
        if self.health is not None:
            self.health.end()
        failpoints.hit("shim.exit.ended")
        code = ends.exit_code(self.launcher, self._task)
        if code is None and tries:
            self._loop.later(ends.REAP_POLL, lambda: self._ended(tries - 1))
            return
        failpoints.hit("shim.exit.reaped")
        self._end_the_rest()
        self.streams.drain(lambda: self._conclude(code))

    def _end_the_rest(self) -> None:
        """Without a pid namespace of its own, nobody dies with the first process by the kernel's doing."""
        if self._record is not None and self._record.own_pids:
            return
        try:
            group = self._group()
            if group is not None:
                group.kill_all()
        except FileNotFoundError:
            return
        except OSError as error:
            self._report("cannot kill what is left of the container", error)

    def _conclude(self, code: int | None) -> None:
        """Output is complete: log it to the end, write the record, tell. The code is None when nobody knows it."""
        now, oom_kills = time.time_ns(), self._oom_kills()
        lost = () if code is not None else (Loss(what=Lost.EXIT_CODE.value, since=self.started_at, until=now),)
        record = ExitRecord(
            exit_code=UNKNOWN_EXIT if code is None else code,
            exited_at=now,
            started_at=self._record.started_at if self._record and self.phase is not Phase.CREATED else 0,
            oom_killed=oom_kills > 0,
            pid=self.pid,
            losses=joined(self.losses, lost),
            oom_kills=oom_kills,
        )
        failpoints.hit("shim.exit.drained")
        self._log.finish(lambda: self._persist(self._with_unlogged(record)))

    def _with_unlogged(self, record: ExitRecord) -> ExitRecord:
        unlogged = self._log.unlogged()
        return record if unlogged is None else replace(record, losses=joined(record.losses, (unlogged,)))

    def _oom_kills(self) -> int:
        try:
            group = self._group()
            return group.oom_kills() if group is not None else 0
        except OSError:
            return 0

    def _persist(self, record: ExitRecord) -> None:
        self.telling.persist(record)
        failpoints.hit("shim.exit.recorded")
        self._announce(record)

    def _announce(self, record: ExitRecord) -> None:
        self.phase, self.exit = Phase.EXITED, record
        self.telling.announce(record)
        failpoints.hit("shim.exit.announced")
        self._log.close()
        self._root.outlive()
        self._loop.later(_UNLEFT, self.let_go_of_root)
        self.custody.ended()
        if self._remains >= 0:
            os.close(self._remains)
            self._remains = -1
        self.followers.complete()
        self.streams.finish()


def _nothing() -> None:
    """Nobody has anything in hand."""
