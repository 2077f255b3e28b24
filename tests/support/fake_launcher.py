"""A launcher that forks plain processes: the shim's port without namespaces, root or a rootfs.

    python -m tests.support.fake_launcher <container id> <run dir> <data dir>

is a whole shim on it, in the foreground; it prints "ready" when it listens.

    python -m tests.support.fake_launcher zygote <fd>

is a supervisor's zygote whose shims use it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
import tempfile
import termios
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bulkhead.errors import LaunchFailed, NotFound
from bulkhead.linux import process
from bulkhead.shim import app, bundle, container, logs, peers, stdio
from bulkhead.shim.identity import Expected, Identity
from bulkhead.shim.ports import Rootfs, Stdio
from bulkhead.supervisor import zygote

_EXIT_CODES = {errno.ENOENT: 127, errno.ENOTDIR: 127, errno.EACCES: 126, errno.EISDIR: 126, errno.ENOEXEC: 126}


def _state(pid: int) -> str:
    """One letter; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


@dataclass(eq=False)
class FakeCgroup:
    """The process's session stands for the cgroup; it is frozen by SIGSTOP."""

    leader: int
    path: str = "/fake"
    removed: bool = False

    def pids(self) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if os.getsid(int(entry.name)) == self.leader:
                        found.append(int(entry.name))
                except ProcessLookupError:
                    continue
        return found

    def kill_all(self) -> None:
        self._signal(signal.SIGKILL)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def is_frozen(self) -> bool:
        return any(_state(pid) == "T" for pid in self.pids())

    def oom_kills(self) -> int:
        return 0

    def remove(self) -> None:
        self.removed = True

    def _signal(self, number: int) -> None:
        for pid in self.pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue


@dataclass(eq=False)
class FakeProcess:
    pid: int
    pidfd: int
    console: int | None = None
    warnings: tuple[str, ...] = ()
    start_time: int = 0
    go: int = -1
    word: int = -1
    argv0: str = ""
    cgroup: FakeCgroup = field(default_factory=lambda: FakeCgroup(-1))

    def rest(self) -> None:
        """There is nothing."""

    def hold_root(self) -> int:
        return -1

    def start(self) -> None:
        self.let_go()
        self.settle()

    def let_go(self) -> None:
        os.write(self.go, b"g")
        os.close(self.go)

    def settle(self) -> None:
        word, self.word = self.word, -1
        if word < 0:
            return
        told = os.read(word, 16)
        os.close(word)
        if told:
            os.waitpid(self.pid, 0)
            number = int(told)
            raise LaunchFailed(
                f'exec: "{self.argv0}": {os.strerror(number).lower()}',
                step="exec",
                errno=number,
                exit_code=_EXIT_CODES.get(number, 128),
            )

    def end(self) -> None:
        """Before it was started."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.go)
        os.close(self.word)
        self.close()

    def signal(self, number: int) -> None:
        signal.pidfd_send_signal(self.pidfd, number)

    def close(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class FakeLauncher:
    """Runs process.args on the host; `config["fail"]` makes create fail, `config["fail late"]` when there is a process,
    `config["patience"]` are the seconds for which
    the shim waits for a client that does not read, and for a disk."""

    def expect(self, expected: Expected) -> None:
        """Nothing takes long here."""

    def dismiss(self) -> None:
        """There is nothing."""

    def create(
        self,
        *,
        container_id: str,
        data_dir: str,
        terminal: bool,
        rootfs: Rootfs | None,
        stdio: Stdio,
        runtime: Sequence[str] = (),
        planned: bytes = b"",
        network: tuple[str, int] | None = None,
        begun: Callable[[Any], None],
        go: Callable[[Any, int], None] | None = None,
    ) -> FakeProcess:
        config = bundle.read(data_dir)
        assert bundle.has_terminal(config) is terminal
        if config.get("fail"):
            raise LaunchFailed(str(config["fail"]), step="mount", errno=errno.EINVAL, exit_code=128)
        if "patience" in config:
            peers.PATIENCE = logs.PATIENCE = config["patience"]
        spawned = _spawn(config["process"], stdio)
        if config.get("fail late"):
            begun(spawned)
            spawned.end()
            raise LaunchFailed(str(config["fail late"]), step="mount", errno=errno.EINVAL, exit_code=128)
        return spawned

    def adopt(
        self, *, container_id: str, data_dir: str, pid: int, start_time: int, cgroup: str, runtime: Sequence[str] = ()
    ) -> FakeProcess:
        pidfd = process.open_verified(pid, start_time)
        if pidfd is None:
            raise NotFound(f"cannot adopt {pid}: it is gone")
        return FakeProcess(pid=pid, pidfd=pidfd, start_time=start_time, cgroup=FakeCgroup(pid))

    def ready(self, *, task: Any, planned: bytes, stdio: Stdio) -> None:
        """There is nothing."""

    def exec(
        self,
        *,
        task: Any,
        data_dir: str,
        process: Mapping[str, Any],
        stdio: Stdio,
        planned: bytes = b"",
        ready: Any = None,
        begun: Callable[[], None] | None = None,
        settled: bool = True,
    ) -> FakeProcess:
        started = _spawn(process, stdio)
        if begun is not None:
            begun()
        started.let_go()
        if settled:
            started.settle()
        return started

    def reap(self, pidfd: int) -> int | None:
        found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else 128 + found.si_status

    def group(self, cgroup: str) -> FakeCgroup:
        raise FileNotFoundError(cgroup)

    def release(self, *, container_id: str, data_dir: str, cgroup: str, runtime: Sequence[str] = ()) -> None:
        """There is nothing."""


def _spawn(wanted: Mapping[str, Any], stdio: Stdio) -> FakeProcess:
    master, slave = os.openpty() if wanted.get("terminal") else (-1, -1)
    if slave >= 0 and "consoleSize" in wanted:
        termios.tcsetwinsize(slave, (wanted["consoleSize"]["height"], wanted["consoleSize"]["width"]))
    go_read, go_write = os.pipe2(os.O_CLOEXEC)
    word_read, word_write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            _become(wanted, stdio, slave, go_read)
        except OSError as error:
            os.write(word_write, str(error.errno).encode())
        os._exit(1)
    for fd in (go_read, word_write, slave):
        if fd >= 0:
            os.close(fd)
    return FakeProcess(
        pid=pid,
        pidfd=os.pidfd_open(pid),
        console=master if master >= 0 else None,
        start_time=process.start_time(pid) or 0,
        go=go_write,
        word=word_read,
        argv0=wanted["args"][0],
        cgroup=FakeCgroup(pid),
    )


def _become(wanted: Mapping[str, Any], stdio: Stdio, slave: int, go: int) -> None:
    for number in range(1, signal.SIGRTMAX):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    os.setsid()
    if slave >= 0:
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        places = (slave, slave, slave)
    else:
        null = os.open(os.devnull, os.O_RDWR)
        places = tuple(fd if fd >= 0 else null for fd in (stdio.stdin, stdio.stdout, stdio.stderr))  # type: ignore[assignment]
    # Copied above the standard three first, so that none overwrites another.
    for number, fd in enumerate([fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in places]):
        os.dup2(fd, number)
        os.close(fd)
    if not os.read(go, 1):
        os._exit(1)
    os.chdir(wanted.get("cwd") or "/")
    environment = dict(entry.partition("=")[::2] for entry in wanted.get("env", ["PATH=/usr/bin:/bin"]))
    os.execvpe(wanted["args"][0], list(wanted["args"]), environment)


def main() -> int:
    """A shim in the foreground, or a zygote."""
    # Waiting is not what tests are for: for clients that they leave open, for pipes that others hold. A disk has its
    # whole time, since that of a busy machine needs it.
    peers.PATIENCE, stdio.DRAIN_IDLE, logs.RETRY = 1.0, 0.4, 0.05
    container.UNMOUNT_PATIENCE = 0.2
    if sys.argv[1] == "zygote":
        zygote.close_inherited(int(sys.argv[2]))
        return zygote.main(int(sys.argv[2]), app.Shim(FakeLauncher()), Path(tempfile.gettempdir()))
    container_id, run_dir, data_dir = sys.argv[1:4]
    identity = Identity(container_id=container_id, run_dir=run_dir, data_dir=data_dir)
    app.prepare_process()
    shim = app.Shim(FakeLauncher())
    shim.settle()
    return shim.live(identity, lambda text: print(text or "ready", flush=True))


if __name__ == "__main__":
    sys.exit(main())
