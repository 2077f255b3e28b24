"""A shim put together: the process made fit to outlive everybody, the sockets, the parts, the loop."""
# ruff: noqa: PTH102, PTH103, PTH104, PTH106 -- see linux.atomicfile

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bulkhead import __version__, failpoints, nsexec, plainlog
from bulkhead.errors import BulkheadError, Conflict, Unavailable
from bulkhead.linux import atomicfile, process, scheduling
from bulkhead.model.shim_protocol import KEEPS_EXECS, PROTOCOL, TELLS_NEW_EXECS
from bulkhead.shim.container import Container
from bulkhead.shim.custody import Estate
from bulkhead.shim.door import Door
from bulkhead.shim.execs import Execs
from bulkhead.shim.exits import ExitRecord
from bulkhead.shim.identity import NOTHING_KNOWN, Expected, Identity
from bulkhead.shim.lifecycle import Phase
from bulkhead.shim.loop import Loop, Signals
from bulkhead.shim.new_execs import NewExecs
from bulkhead.shim.ports import Launcher
from bulkhead.shim.servicer import ShimServicer
from bulkhead.shim.upkeep import Upkeep
from bulkhead.wire import ended_execs
from bulkhead.wire.ttrpc_server import Call, TtrpcServer

if TYPE_CHECKING:
    from bulkhead.shim.rehearsal import Play, Stage

_LOG_LIMIT = 256 << 10
# The container's output may still be on its way to slow clients when the shim is told to leave.
_LEAVE_POLL = 0.05
_LEAVE_PATIENCE = 12.0
# Who takes longer may have been given up: a SIGKILL that is on its way must not meet another container.
_PROMPT = 2.0
_OOM_SCORE = -999
_BACKLOG = 64
# Most containers are removed as soon as they have ended. That goes to the disk first, before all that is dirty does.
_UNMOUNT_PAUSE = 0.005
# A shim whose container has not begun, and to which nobody is connected at two looks in a row, leaves: whoever launched
# it is dead, and may not know of it when he comes back. Longer than from that to an attach that was promised the shim.
_LOOK = 3.0
# Nothing needs waiting for but the ends of processes.
_REHEARSAL_PATIENCE = 0.01


# Beside the bundle: (pid, start time) of the shim that holds the container, and how to speak to it.
SHIM_RECORD = "shim.json"


class Journal:
    """`<data_dir>/shim.log`: what went wrong, as JSON lines, at most twice 256 KiB."""

    def __init__(self) -> None:
        self._identity = Identity("", "", "")
        # Whether anything ever went wrong.
        self.told = False

    def claim(self, identity: Identity) -> None:
        """Write to this container's log from now on."""
        self._identity = identity

    def error(self, event: str, error: BaseException, **fields: object) -> None:
        """One line with the error's trace; a log that cannot be written is no reason to stop."""
        self.told = True
        path = f"{self._identity.data_dir}/shim.log"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            return
        trace = "".join(traceback.format_exception(error))[-4096:]
        try:
            plainlog.log_line(
                fd,
                "error",
                event,
                service="bulkhead-shim",
                container=self._identity.container_id,
                exception=trace,
                **fields,
            )
            if os.fstat(fd).st_size > _LOG_LIMIT:
                os.rename(path, f"{path}.1")
        except OSError:
            return
        finally:
            os.close(fd)


class Shim:
    """The parts of one shim, wired. Made before it is known whose it is, so that a zygote's children share it."""

    def __init__(self, launcher: Launcher) -> None:
        self._identity = Identity("", "", "")
        self._launcher = launcher
        self._journal = Journal()
        # With its pid the process's name, as it stands in the container's record.
        self.started: int | None = None
        self._loop = Loop(self._journal.error)
        self._signals = Signals(self._loop)
        self._container = Container(self._loop, self._signals, launcher, self._journal.error)
        self._execs = Execs(self._container, self._loop, self._signals, launcher)
        new_execs = self._new_execs = NewExecs(self._loop, self._container, self._execs)
        servicer = ShimServicer(self._container, self._execs, new_execs, self._leave, self._depart, self._is_attended)
        self._server = TtrpcServer(self._loop, servicer.services(), self._call_failed)
        self._container.telling.has_company = lambda: not self._server.deserted
        self._door = Door(self._loop, self._container, self._execs, new_execs, self._journal.error)
        self._upkeep = Upkeep(self._loop, self._rest)
        self._lock = -1
        self._leaving: list[Callable[[], None]] = []
        self._left = False
        self._departs = False
        self._leaves_since = 0.0
        # Whether somebody takes it for dead, or may do so.
        self._suspected = False
        self._reusable = False
        # Whether it is looked after who wants a shim that has no container yet, and nobody was there the last time.
        self._looks = self._alone = False
        self._ticks = 0

    def get_ready(self, pages: bytes) -> None:
        """The process is a spare now: do all that needs no name.

        A fork shares its memory until it writes to it, and each page's copy then takes microseconds. A spare makes its
        copies before anybody waits: `pages` are those that it will write to (`learn`).
        """
        nsexec.copy_memory(pages)
        self.settle()

    def settle(self) -> None:
        """The process is this shim's for good: take what a fork does not inherit."""
        # Its launching children's children come to it, and whom a container without pid namespace leaves behind.
        process.become_subreaper()
        scheduling.be_prompt(children=False)
        self._loop.open()
        self._signals.start(self._called)

    def _undo_rehearsal(self, identity: Identity) -> None:
        self._server.close()
        self._door.stop_listening()
        self._container.let_go_of_root()
        _remove_run_dir(identity.run_dir)
        atomicfile.remove(f"{identity.data_dir}/{SHIM_RECORD}", durable=False)
        _remove_directory(identity.data_dir)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def launch_by(self, launcher: Launcher) -> None:
        """Another launcher from now on."""
        self._launcher = launcher
        self._container.launcher = launcher
        self._execs.launcher = launcher

    def rehearse(self, play: Play, identity: Identity) -> None:
        """Live through the play, in a process that will be nobody's shim. Raises OSError and BulkheadError."""
        self._loop.open()
        self._signals.start(self._called)
        confidant, link = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            play.prepare()
            self._open(identity)
            self.confide(link, heir=False)
            self._launcher.expect(Expected(cgroup=play.cgroup))
            play.run(lambda _: self._loop.turn(_REHEARSAL_PATIENCE))
        finally:
            self._undo_rehearsal(identity)
            play.clear()
            confidant.close()
            link.close()
            self._signals.stop()
            self._loop.close()

    def live(
        self,
        identity: Identity,
        ready: Callable[[str], None],
        estate: Estate | None = None,
        expected: Expected = NOTHING_KNOWN,
    ) -> int:
        """Be the shim of `identity`, in a process prepared and settled, until Shutdown; the exit status.

        `ready` is told "" once the sockets listen, else a JSON object with kind and error.
        `estate` are the descriptors that an earlier shim's death has left; it makes ready for what is `expected`.
        """
        process.set_title(title(identity))
        self._journal.claim(identity)
        failpoints.refresh()
        try:
            self._open(identity, estate, expected)
        except Exception as error:
            if not isinstance(error, BulkheadError):
                self._journal.error("cannot start", error)
            ready(json.dumps({"kind": type(error).__name__, "error": str(error)}))
            return 1
        ready("")
        if self._container.phase is Phase.NEW:
            # While whoever heard that is on the way with the bundle.
            self._launcher.expect(expected)
        self._upkeep.begin()
        self._loop.run()
        return 0

    def confide(self, link: socket.socket, *, heir: bool) -> None:
        """Have the other end of `link` keep what would be lost with this process; see `custody`."""
        self._container.custody.confide(link, heir=heir)

    def retire(self) -> bool:
        """After `live`: hang up on everybody, and let go of what was made for this life.

        False when this process has done what may have left something in it, and is to end. The next life wants
        another `Shim`.
        """
        if not self._reusable or self._suspected or self._journal.told or self._container.has_succeeded:
            return False
        if failpoints.has_struck() or any(map(os.path.lexists, self._traces())):
            return False
        failpoints.hit("shim.retire.begun")
        self._launcher.dismiss()
        self._server.close()
        self._door.close()
        self._new_execs.close()
        self._container.streams.drop_peers()
        self._execs.drop_peers()
        self._container.custody.close()
        self._signals.stop()
        self._loop.close()
        self._unmount()
        return not self._journal.told

    def end(self) -> None:
        """After `live`, in a process that will do nothing more: let go of everything, last of the container's root."""
        if self._container.holds_root:
            self._container.close_all_but_root()
            self._unmount()

    def _unmount(self) -> None:
        """Let go of the container's root. By then nobody waits for this process."""
        if self._container.holds_root:
            time.sleep(_UNMOUNT_PAUSE)
            self._container.let_go_of_root()

    def _open(self, identity: Identity, estate: Estate | None = None, expected: Expected = NOTHING_KNOWN) -> None:
        """Raises Conflict when another shim has the container, Unavailable when the sockets cannot be made."""
        self._identity = identity
        self._lock = _lock(identity.data_dir)
        failpoints.hit("shim.claim.locked")
        self._write_record(expected.cgroup)
        failpoints.hit("shim.claim.recorded")
        self._container.claim(identity, estate)
        self._execs.inherit()
        failpoints.hit("shim.claim.claimed")
        self._listen()

    def _listen(self) -> None:
        """(Re)make the sockets in the run directory."""
        run = self._identity.run_dir
        try:
            _make_directory(run)
            self._server.listen(_bind(f"{run}/shim.sock"))
            self._door.listen(_bind(f"{run}/stdio.sock"))
        except OSError as error:
            raise Unavailable(f"cannot listen in {run}: {error.strerror}") from error

    def _called(self) -> None:
        """SIGUSR1: somebody cannot reach us, and will kill us if that lasts."""
        self._suspected = True
        if not self._left:
            self._listen()

    def _rest(self) -> None:
        """A moment after the launch, and now and then from there on."""
        self._container.rest()
        if not self._looks:
            self._looks = True
            self._look()

    def _look(self) -> None:
        """Nothing to do for most, whose containers have begun by then."""
        if self._container.has_begun or self._left:
            return
        alone, self._alone = self._alone, self._server.deserted and not self._is_attended()
        if alone and self._alone:
            self._leave(_nothing)
        else:
            self._loop.later(_LOOK, self._look)

    def _is_attended(self) -> bool:
        """Whether somebody has come for the container's streams."""
        self._door.admit_all()
        return self._container.streams.attended or self._door.expects_somebody

    def _traces(self) -> tuple[str, ...]:
        """What tells others that this is the container's shim."""
        run = self._identity.run_dir
        return f"{run}/shim.sock", f"{run}/stdio.sock", f"{self._identity.data_dir}/{SHIM_RECORD}"

    def _write_record(self, cgroup: str) -> None:
        """With the cgroup that will be made ahead: whoever finds this shim dead may find that nowhere else."""
        pid = os.getpid()
        ahead = f',"cgroup":{json.dumps(cgroup)}' if cgroup else ""
        try:
            self.started = process.start_time(pid)
            record = (
                f'{{"pid":{pid},"start_time":{self.started},"protocol":{PROTOCOL},"version":"{__version__}",'
                f'"{KEEPS_EXECS}":true,"{TELLS_NEW_EXECS}":true{ahead}}}\n'
            )
            atomicfile.write(f"{self._identity.data_dir}/{SHIM_RECORD}", record.encode(), durable=False, alone=True)
        except OSError as error:
            raise Unavailable(f"cannot write {SHIM_RECORD}: {error.strerror}") from error

    def _call_failed(self, call: Call, error: BaseException) -> None:
        self._journal.error("call failed", error, method=call.method, request_id=call.request_id)

    def _depart(self) -> None:
        """Leave by itself: the container has ended, and who asked for it has been told so."""
        self._departs = True
        # Not within the announcement, so that everybody has heard before anything is taken away.
        self._loop.later(0, self._go)

    def _go(self) -> None:
        if self._server.deserted:
            # Who was to put the exit on record has most likely not heard of it.
            self._container.telling.settle()
        self._leave(_nothing)

    def _leave(self, done: Callable[[], None]) -> None:
        """End the container if it lives, give everything back, call `done`, leave when all has been sent."""
        self._leaving.append(done)
        if len(self._leaving) > 1 and not self._left:
            return
        self._leaves_since = self._leaves_since or time.monotonic()
        if self._container.phase in (Phase.NEW, Phase.EXITED):
            if not self._departs:
                self._container.telling.settle()
            self._clear()
            return
        try:
            self._container.kill(signal.SIGKILL, everyone=True)
        except (BulkheadError, OSError) as error:
            # It may be ending already; if not, the caller's deadline tells.
            self._journal.error("cannot kill the container", error)
        self._container.when_exited(self._clear_soon)

    def _clear_soon(self, _record: ExitRecord) -> None:
        # Not within the announcement, so that everybody has heard before anything is taken away.
        self._loop.later(0, self._clear)

    def _clear(self) -> None:
        if not self._left:
            self._left = True
            try:
                self._give_back()
            finally:
                # A successor may take the container from here on, who has to do with what this one could not.
                os.close(self._lock)
                self._lock = -1
                self._linger()
        waiting, self._leaving = self._leaving, []
        for done in waiting:
            done()
        # Who asked and did not stay for the answer may have lost patience.
        self._suspected = self._suspected or self._server.deserted
        if self._departs:
            # That is how they know that it has left.
            self._server.hang_up()

    def _give_back(self) -> None:
        # Who could not do all of it is no spare.
        self._suspected, suspected = True, self._suspected
        failpoints.hit("shim.leave.begun")
        self._let_go_of_expected()
        self._container.remove()
        failpoints.hit("shim.leave.removed")
        self._server.stop_listening()
        self._door.stop_listening()
        _remove_run_dir(self._identity.run_dir)
        atomicfile.remove(f"{self._identity.data_dir}/{SHIM_RECORD}", durable=False)
        failpoints.hit("shim.leave.cleared")
        self._suspected = suspected

    def _let_go_of_expected(self) -> None:
        try:
            self._launcher.dismiss()
        except OSError as error:
            self._journal.error("cannot remove the cgroup", error)

    def _linger(self) -> None:
        self._ticks += 1
        busy = self._container.streams.busy or self._execs.busy or not self._server.idle
        if busy and self._ticks * _LEAVE_POLL < _LEAVE_PATIENCE:
            self._loop.later(_LEAVE_POLL, self._linger)
        else:
            self._reusable = not busy and time.monotonic() - self._leaves_since < _PROMPT
            self._loop.later(0, self._loop.stop)


def _nothing() -> None:
    """Nobody waits for an answer."""


def title(identity: Identity) -> str:
    """What ps shows of a shim, from before it takes the container's lock."""
    return f"bulkhead-shim: {identity.short_id}"


def prepare_process() -> None:
    """What makes a process fit to be a shim, with no one to follow into death.

    All of it survives fork(2), so a zygote does it once: every function called in a child costs that memory.
    """
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    Signals.prepare()
    # Forks compare theirs with what it was.
    process.keep_heap()
    os.chdir("/")
    os.umask(0o022)
    try:
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
    except OSError:
        # Lowering it needs CAP_SYS_RESOURCE, which containers around us may not have given.
        return


def engine_shim() -> Shim:
    """A shim on the engine's own runtime core, or on another runtime for a container that wants it."""
    from bulkhead.shim.adapters.launchers import Launchers

    return Shim(Launchers())


def rehearse(stage: Stage) -> None:
    """Run what shims will run, on `stage`; see `bulkhead.shim.rehearsal`. After `prepare_process`."""
    from bulkhead.shim.rehearsal import ROUNDS, Play, nothing

    # Where it cannot be done shims are slower and larger, that is all.
    with contextlib.suppress(OSError, BulkheadError):
        stage.prepare()
        for _ in range(ROUNDS):
            Shim(stage.launcher()).rehearse(Play(stage, nothing), stage.identity)


def learn(shim: Shim, stage: Stage) -> bytes:
    """Which pages a fork of this process writes to when it is the shim of a container (`nsexec.written_memory`).

    A fork of it lives that life on `stage` and tells. Nothing when it cannot.
    """
    told, tells = os.pipe2(os.O_CLOEXEC)
    try:
        child = os.fork()
    except OSError:
        os.close(told)
        os.close(tells)
        return b""
    if child == 0:
        try:
            os.close(told)
            _live_and_tell(shim, stage, tells)
        finally:
            os._exit(0)
    os.close(tells)
    with os.fdopen(told, "rb") as file:
        pages = file.read()
    os.waitpid(child, 0)
    return pages


def _live_and_tell(shim: Shim, stage: Stage, tells: int) -> None:
    from bulkhead.shim.rehearsal import Play, nothing

    with contextlib.suppress(OSError, BulkheadError):
        shim.launch_by(stage.launcher())
        shim.rehearse(Play(stage, nothing), stage.identity)
        with os.fdopen(tells, "wb") as file:
            file.write(nsexec.written_memory())


def preload(cache: Path) -> None:
    """Import and make all that a shim will need, so that forks of this process share it.

    `cache` is a directory for what can be made again at any time.
    """
    # Not at the top: whoever only talks about shims need not load the runtime core.
    from bulkhead.shim.adapters import runtime_launcher

    runtime_launcher.preload(cache)


def _lock(data_dir: str) -> int:
    """The lock that makes a container's shim its only one; the kernel drops it with the process."""
    try:
        fd = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(f"cannot open {data_dir}: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise Conflict(f"cannot serve {data_dir}: another shim does") from None
    return fd


def _make_directory(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        os.makedirs(path, 0o700, exist_ok=True)


def _bind(path: str) -> socket.socket:
    atomicfile.remove(path, durable=False)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(path)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _remove_run_dir(run: str) -> None:
    for name in ("shim.sock", "stdio.sock", ended_execs.NAME):
        atomicfile.remove(f"{run}/{name}", durable=False)
    _remove_directory(run)


def _remove_directory(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:
        # Absent, or somebody keeps other files there: they are his to remove.
        return
