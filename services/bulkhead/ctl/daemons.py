"""The four service processes: launched detached, found by their locked pid files, stopped, killed."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bulkhead import settings
from bulkhead.errors import Conflict, Internal
from bulkhead.logfile import open_log
from bulkhead.model.instance import SERVICES
from bulkhead.service import holder, prepare_directories
from bulkhead.settings import Settings

# A service drains what its clients have under way; past this it is stuck, and containers do not care.
STOP_SECONDS = 15.0
# What of the operator's environment a daemon may see: nothing that could be a secret of theirs.
_INHERITED = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
_INHERITED_PREFIXES = ("BULKHEAD_", "LC_", "PYTHON", "COVERAGE_")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


@dataclass(frozen=True, slots=True)
class Daemons:
    """The processes of one installation."""

    settings: Settings

    def pid(self, service: str) -> int | None:
        """The pid of the service, or None when it does not run."""
        return holder(self.settings.instance.pid_file(service))

    def log(self, service: str) -> Path:
        return self.settings.instance.run / "log" / f"{service}.log"

    def launch(self, service: str) -> subprocess.Popen[bytes]:
        """Start a service in its own session, with / as its directory and its log as stdout and stderr.

        Raises Conflict when it runs already, Internal when its log or process cannot be made.
        """
        if (pid := self.pid(service)) is not None:
            raise Conflict(f"cannot start {service}: it runs already as pid {pid}")
        prepare_directories(self.settings.instance)
        try:
            log = self._open_log(service)
            try:
                # -P: a file named like a module in / must not be imported as root.
                return subprocess.Popen(
                    [sys.executable, "-P", "-m", f"bulkhead.{service}"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env=self._environment(os.environ),
                    start_new_session=True,
                )
            finally:
                os.close(log)
        except OSError as error:
            raise Internal(f"cannot start {service}: {error}") from error

    def kill(self, service: str) -> int | None:
        """SIGKILL, and wait until it is gone; the pid it had, or None when it did not run."""
        with _held(self, [service]) as processes:
            for process in processes.values():
                process.signal(signal.SIGKILL)
            _wait_gone(processes.values(), STOP_SECONDS)
            return processes[service].pid if service in processes else None

    def stop(self, services: Iterable[str] = SERVICES, seconds: float = STOP_SECONDS) -> dict[str, str]:
        """SIGTERM to all, SIGKILL to those that still live after `seconds`; what became of each that ran."""
        outcome: dict[str, str] = {}
        with _held(self, services) as processes:
            for process in processes.values():
                process.signal(signal.SIGTERM)
            late = _wait_gone(processes.values(), seconds)
            for process in late:
                process.signal(signal.SIGKILL)
            _wait_gone(late, seconds)
            for service, process in processes.items():
                outcome[service] = f"killed after {seconds:g} s" if process in late else "stopped"
        return outcome

    def last_lines(self, service: str, count: int = 8) -> list[str]:
        """The end of a service's log, for a message that explains why it is not ready."""
        try:
            with self.log(service).open("rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - 16384))
                return log.read().decode(errors="replace").splitlines()[-count:]
        except FileNotFoundError:
            return []

    def _open_log(self, service: str) -> int:
        path = self.log(service)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        return open_log(path)

    def _environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        kept = {
            name: value
            for name, value in environ.items()
            if name in _INHERITED or name.startswith(_INHERITED_PREFIXES) or name.lower() in _PROXIES
        }
        if kept.get("PYTHONPATH"):
            # The daemon's directory is /, so what was relative to ours must be said in full.
            kept["PYTHONPATH"] = os.pathsep.join(str(Path(p).resolve()) for p in kept["PYTHONPATH"].split(os.pathsep))
        kept.pop(settings.CONFIG_VARIABLE, None)
        return {**kept, **settings.environment(self.settings.instance, self.settings.path)}


class _Process:
    """A process held by pidfd, so that its number cannot come to mean another one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)


@contextlib.contextmanager
def _held(daemons: Daemons, services: Iterable[str]) -> Iterator[dict[str, _Process]]:
    found: dict[str, _Process] = {}
    try:
        for service in services:
            if (process := _hold(daemons, service)) is not None:
                found[service] = process
        yield found
    finally:
        for process in found.values():
            os.close(process.pidfd)


def _hold(daemons: Daemons, service: str) -> _Process | None:
    while (pid := daemons.pid(service)) is not None:
        try:
            process = _Process(pid)
        except ProcessLookupError:
            continue
        # The lock's holder was read before the pidfd was taken: only if it still holds is it the same.
        if daemons.pid(service) == pid:
            return process
        os.close(process.pidfd)
    return None


def _wait_gone(processes: Iterable[_Process], seconds: float) -> list[_Process]:
    """Wait for the ends of all; those that still live after `seconds`."""
    waiting = {process.pidfd: process for process in processes}
    deadline = time.monotonic() + seconds
    poll = select.poll()
    for pidfd in waiting:
        poll.register(pidfd, select.POLLIN)
    while waiting and (left := deadline - time.monotonic()) > 0:
        for pidfd, _ in poll.poll(left * 1000):
            poll.unregister(pidfd)
            del waiting[pidfd]
    return list(waiting.values())
