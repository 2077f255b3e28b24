"""A shim put together: the process made fit to outlive everybody, the sockets, the parts, the loop."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import traceback
from collections.abc import Callable
from pathlib import Path

from bulkhead import plainlog
from bulkhead.errors import BulkheadError, Conflict, Unavailable
from bulkhead.linux import atomicfile, process
from bulkhead.shim.container import Container, Identity, Phase
from bulkhead.shim.door import Door
from bulkhead.shim.execs import Execs
from bulkhead.shim.exits import ExitRecord
from bulkhead.shim.loop import Loop, Signals
from bulkhead.shim.ports import Launcher
from bulkhead.shim.servicer import ShimServicer
from bulkhead.wire.ttrpc_server import Call, TtrpcServer

_LOG_LIMIT = 256 << 10
# The container's output may still be on its way to slow clients when the shim is told to leave.
_LEAVE_POLL = 0.05
_LEAVE_PATIENCE = 12.0
_OOM_SCORE = -999
_BACKLOG = 64


# Beside the bundle: (pid, start time) of the shim that holds the container.
SHIM_RECORD = "shim.json"


class Journal:
    """`<data_dir>/shim.log`: what went wrong, as JSON lines, at most twice 256 KiB."""

    def __init__(self, identity: Identity) -> None:
        self._path = identity.data_dir / "shim.log"
        self._container = identity.container_id

    def error(self, event: str, error: BaseException, **fields: object) -> None:
        """One line with the error's trace; a log that cannot be written is no reason to stop."""
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            return
        try:
            trace = "".join(traceback.format_exception(error))[-4096:]
            plainlog.log_line(
                fd, "error", event, service="bulkhead-shim", container=self._container, exception=trace, **fields
            )
            if os.fstat(fd).st_size > _LOG_LIMIT:
                self._path.rename(self._path.with_name("shim.log.1"))
        except OSError:
            return
        finally:
            os.close(fd)


class Shim:
    """The parts of one shim, wired."""

    def __init__(self, identity: Identity, launcher: Launcher) -> None:
        self._identity = identity
        self._journal = Journal(identity)
        self._loop = Loop(self._journal.error)
        self._signals = Signals(self._loop)
        self._container = Container(identity, self._loop, self._signals, launcher, self._journal.error)
        self._execs = Execs(self._container, self._loop, self._signals, launcher)
        servicer = ShimServicer(self._container, self._execs, self._leave)
        self._server = TtrpcServer(self._loop, servicer.services(), self._call_failed)
        self._door = Door(self._loop, self._container, self._execs, self._journal.error)
        self._lock = -1
        self._leaving: list[Callable[[], None]] = []
        self._left = False
        self._ticks = 0

    def open(self) -> None:
        """Become this container's only shim and listen on both sockets.

        Raises Conflict when another shim has it, Unavailable when the sockets cannot be made.
        """
        self._lock = _lock(self._identity.data_dir)
        self._write_record()
        self._signals.start(self.listen)
        self._container.recover()
        self.listen()

    def listen(self) -> None:
        """(Re)make the sockets in the run directory."""
        run = self._identity.run_dir
        try:
            run.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._server.listen(_bind(run / "shim.sock"))
            self._door.listen(_bind(run / "stdio.sock"))
        except OSError as error:
            raise Unavailable(f"cannot listen in {run}: {error.strerror}") from error

    def _write_record(self) -> None:
        pid = os.getpid()
        record = json.dumps({"pid": pid, "start_time": process.start_time(pid)})
        try:
            atomicfile.write(self._identity.data_dir / SHIM_RECORD, record.encode(), durable=False)
        except OSError as error:
            raise Unavailable(f"cannot write {SHIM_RECORD}: {error.strerror}") from error

    def run(self) -> None:
        """Serve until Shutdown."""
        self._loop.run()

    def _call_failed(self, call: Call, error: BaseException) -> None:
        self._journal.error("call failed", error, method=call.method, request_id=call.request_id)

    def _leave(self, done: Callable[[], None]) -> None:
        """End the container if it lives, give everything back, call `done`, leave when all has been sent."""
        self._leaving.append(done)
        if len(self._leaving) > 1 and not self._left:
            return
        if self._container.phase in (Phase.NEW, Phase.EXITED):
            self._clear()
            return
        self._container.kill(signal.SIGKILL, everyone=True)
        self._container.when_exited(self._clear_soon)

    def _clear_soon(self, _record: ExitRecord) -> None:
        # Not within the announcement, so that everybody has heard before anything is taken away.
        self._loop.later(0, self._clear)

    def _clear(self) -> None:
        if not self._left:
            self._left = True
            self._container.remove()
            self._server.stop_listening()
            self._door.stop_listening()
            _remove_run_dir(self._identity.run_dir)
            (self._identity.data_dir / SHIM_RECORD).unlink(missing_ok=True)
            # A successor may take the container from here on.
            os.close(self._lock)
            self._linger()
        waiting, self._leaving = self._leaving, []
        for done in waiting:
            done()

    def _linger(self) -> None:
        self._ticks += 1
        busy = self._container.streams.busy or self._execs.busy or not self._server.idle
        if busy and self._ticks * _LEAVE_POLL < _LEAVE_PATIENCE:
            self._loop.later(_LEAVE_POLL, self._linger)
        else:
            self._loop.later(0, self._loop.stop)


def prepare_process() -> None:
    """What makes a process fit to be a shim, with no one to follow into death.

    All of it survives fork(2), so a zygote does it once: every function called in a child costs that memory.
    """
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    Signals.prepare()
    os.chdir("/")
    os.umask(0o022)
    try:
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
    except OSError:
        # Lowering it needs CAP_SYS_RESOURCE, which containers around us may not have given.
        return


def run(identity: Identity, launcher: Launcher, ready: Callable[[str], None]) -> int:
    """Live as the shim of `identity`, in a process prepared by `prepare_process`; its exit status.

    `ready` is told "" once the sockets listen, else a JSON object with kind and error.
    """
    process.set_title(f"bulkhead-shim: {identity.short_id}")
    shim = Shim(identity, launcher)
    try:
        shim.open()
    except Exception as error:
        if not isinstance(error, BulkheadError):
            Journal(identity).error("cannot start", error)
        ready(json.dumps({"kind": type(error).__name__, "error": str(error)}))
        return 1
    ready("")
    shim.run()
    return 0


def live(identity: Identity, ready: Callable[[str], None]) -> int:
    """`run` on the engine's own runtime core."""
    return run(identity, _runtime(), ready)


def preload(cache: Path) -> None:
    """Import and make all that a shim will need, so that forks of this process share it.

    `cache` is a directory for what can be made again at any time.
    """
    # Not at the top: whoever only talks about shims need not load the runtime core.
    from bulkhead.shim.adapters import runtime_launcher

    runtime_launcher.preload(cache)


def _runtime() -> Launcher:
    # Not at the top: whoever only talks about shims need not load the runtime core.
    from bulkhead.shim.adapters.runtime_launcher import RuntimeLauncher

    return RuntimeLauncher()


def _lock(data_dir: Path) -> int:
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


def _bind(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(str(path))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _remove_run_dir(run: Path) -> None:
    for name in ("shim.sock", "stdio.sock"):
        (run / name).unlink(missing_ok=True)
    try:
        run.rmdir()
    except OSError:
        # Somebody keeps other files there: they are his to remove.
        return
