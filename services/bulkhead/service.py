"""How each service process lives: flags, settings, logs, one pid file, the loop, two-stage stop.

The pid file `<run>/<service>.pid` is locked (fcntl(2) F_SETLK) for as long as the process lives and
holds its pid once the service is ready. The lock, not the number, is what others believe: the
kernel drops it at death however that came, a fork does not inherit it (so a shim never looks like
its supervisor), and F_GETLK names the holder.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import signal
import stat
import struct
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import setproctitle
import structlog

from bulkhead import __version__, failpoints, logfile, settings, stacks, telemetry
from bulkhead.errors import BulkheadError, Conflict, Internal
from bulkhead.event_loop import Loop
from bulkhead.linux import scheduling
from bulkhead.linux.process import share_arenas, trim_memory
from bulkhead.linux.threads import Threads
from bulkhead.model.instance import Instance
from bulkhead.settings import Settings

Serve = Callable[[Settings], AbstractAsyncContextManager[None]]
# struct flock of x86_64 and aarch64: type, whence, start, length, pid.
_FLOCK = struct.Struct("hhqqi4x")
_RUN_MODE = 0o711
_DATA_MODE = 0o700
_WAITERS = 32
_FIRST_TRIM_SECONDS = 3.0
_TRIM_SECONDS = 60.0
# How often it is looked whether there was work, how much is worth a trim (a millisecond), and how much is rest.
_LOOK_SECONDS, _WORK_CPU_SECONDS, _REST_CPU_SECONDS = 10.0, 0.01, 0.01


def run_service(
    name: str,
    serve: Serve,
    argv: Sequence[str] | None = None,
    *,
    arguments: Callable[[ArgumentParser], None] | None = None,
) -> int:
    """Run the service `name` until it is told to stop; the process's exit status.

    `serve(settings)` entered means ready, exited means stopped. `arguments` may add flags, which
    arrive parsed as `settings.arguments`.
    """
    options = _parse(name, argv, arguments)
    telemetry.configure(f"bulkhead-{name}", level=options.log_level)
    log = structlog.get_logger()
    try:
        told = replace(settings.load(path=options.config), arguments=options)
        prepare_directories(told.instance)
        _prepare_process(name, told.instance)
        failpoints.listen(str(told.instance.run))
        with _PidFile(options.pid_file or told.instance.pid_file(name)).held() as pid_file:
            with asyncio.Runner(loop_factory=Loop) as runner:
                # Work of the loop's own pool must not be refused because the pool cannot grow.
                # It is wide: those who wait for a disk that stands still are not to be waited for by all others.
                threads = Threads(_WAITERS, "asyncio")
                runner.get_loop().set_default_executor(threads)
                runner.run(_until_told(told, serve, pid_file, told.instance.stacks(name)))
    except BulkheadError as error:
        log.error(str(error))
        return 1
    except Exception:
        log.exception("died of an unexpected error")
        return 1
    return 0


def prepare_directories(instance: Instance) -> None:
    """Make the run and data directories with their modes; refuse ones that others could change.

    Raises Internal when a directory cannot be made or is not safe.
    """
    for path, mode in ((instance.run, _RUN_MODE), (instance.data, _DATA_MODE)):
        try:
            path.mkdir(mode=mode, parents=True, exist_ok=True)
            found = path.stat(follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                raise Internal(f"cannot use directory {path}: it is not a directory of this user")
            if stat.S_IMODE(found.st_mode) != mode:
                path.chmod(mode)
        except OSError as error:
            raise Internal(f"cannot use directory {path}: {error.strerror}") from error


def holder(pid_file: Path) -> int | None:
    """The pid of the live process that holds a pid file, or None: nobody does, or no such file.

    Asking takes no lock, so it never disturbs a service that starts at the same moment.
    """
    try:
        fd = os.open(pid_file, os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, IsADirectoryError):
        return None
    try:
        question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, question))
    finally:
        os.close(fd)
    return None if kind == fcntl.F_UNLCK else int(pid)


def _parse(name: str, argv: Sequence[str] | None, extra: Callable[[ArgumentParser], None] | None) -> Namespace:
    parser = ArgumentParser(
        prog=f"bulkhead-{name}", description=f"The {name} service of the Bulkhead container engine."
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file (default /etc/bulkhead/config.toml)")
    parser.add_argument("--pid-file", type=Path, metavar="FILE", help=f"default <run>/{name}.pid")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    if extra is not None:
        extra(parser)
    return parser.parse_args(argv)


def _prepare_process(name: str, instance: Instance) -> None:
    """Slices, title, umask, as many descriptors as it may have, and memory that does not grow with its threads."""
    share_arenas()
    # A container that computes does not keep those waiting who ask the engine for something.
    scheduling.be_prompt(children=True)
    setproctitle.setproctitle(f"bulkhead-{name}" + (f" {instance.run}" if instance.suffix else ""))
    os.umask(0o022)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _PidFile:
    """A pid file that is locked while its process lives."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    @contextmanager
    def held(self) -> Iterator[_PidFile]:
        self._fd = self._lock()
        try:
            yield self
        finally:
            # Unlinked while locked: whoever opened the old file sees below that it is no longer there.
            if self._is_still_there(self._fd):
                self._path.unlink(missing_ok=True)
            os.close(self._fd)

    def announce(self) -> None:
        """Ready: now the file holds the pid."""
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def _lock(self) -> int:
        while True:
            try:
                fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise Internal(f"cannot write pid file {self._path}: {error.strerror}") from error
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(fd)
                raise Conflict(f"cannot start: {self._path} is held by pid {holder(self._path)}") from None
            if self._is_still_there(fd):
                os.ftruncate(fd, 0)
                return fd
            os.close(fd)

    def _is_still_there(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), self._path.stat())
        except FileNotFoundError:
            return False


async def _until_told(told: Settings, serve: Serve, pid_file: _PidFile, told_of_tasks: Path) -> None:
    log = structlog.get_logger()
    stop = _Stop()
    stacks.tell_upon_signal(told_of_tasks)
    log.info("starting", run=str(told.instance.run), data=str(told.instance.data))
    tidying = [asyncio.create_task(logfile.keep_small(sys.stderr.fileno())), asyncio.create_task(_keep_trimmed())]
    try:
        with stop.listening():
            async with serve(told):
                pid_file.announce()
                log.info("ready")
                await stop.wait()
                log.info("draining")
    except asyncio.CancelledError:
        if not stop.told:
            raise
    finally:
        for task in tidying:
            task.cancel()
    log.info("stopped")


async def _keep_trimmed() -> None:
    """What a start, a pull or a large answer has freed goes back to the kernel: a quarter of the manager's memory.

    When the service has come to rest, or now and then where it does not.
    """
    await asyncio.sleep(_FIRST_TRIM_SECONDS)
    while True:
        trim_memory()
        await _work_and_rest()


async def _work_and_rest() -> None:
    since, begun = time.monotonic(), time.process_time()
    used = 0.0
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        before, used = used, time.process_time() - begun
        rests = used - before < _REST_CPU_SECONDS
        if (rests and used > _WORK_CPU_SECONDS) or time.monotonic() - since >= _TRIM_SECONDS:
            return


class _Stop:
    """The first SIGTERM or SIGINT ends the wait, or the start that is still under way; the second
    ends the process at once."""

    def __init__(self) -> None:
        self.told = False
        self._event = asyncio.Event()
        self._task = asyncio.current_task()
        self._waiting = False

    async def wait(self) -> None:
        self._waiting = True
        await self._event.wait()

    @contextmanager
    def listening(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self._heard, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _heard(self, number: int) -> None:
        if self.told:
            sys.stderr.flush()
            os._exit(128 + number)
        self.told = True
        self._event.set()
        if not self._waiting and self._task is not None:
            self._task.cancel()
