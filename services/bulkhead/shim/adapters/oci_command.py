"""An OCI runtime's command line, as containerd and conmon use it (oci-runtime.md 8).

Everything of one container lies in one directory, made anew for each life:

    <data_dir>/runtime/          0700
      config.json  rootfs/       the bundle; rootfs is a mount point only in the runtime's own mount namespace
      sources/0 1 ...            mount points of what is below volumes, mounted there alone too
      state/                     the runtime's --root
      log                        its --log, JSON lines
      pid  console.sock  process.json     gone again when a command has ended
"""
# ruff: noqa: PTH102, PTH103, PTH106, PTH108, PTH112 -- see linux.atomicfile

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import signal
from dataclasses import dataclass

from bulkhead.errors import DeadlineExceeded, Internal
from bulkhead.linux import atomicfile
from bulkhead.shim.ports import Stdio

DIRECTORY = "runtime"
# Create and exec may run hooks; our callers wait a minute.
LONG_SECONDS = 50.0
SHORT_SECONDS = 8.0
_TEXT_LIMIT = 64 << 10
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ALL_SIGNALS = tuple(int(number) for number in signal.valid_signals() if number not in (9, 19))


class CommandFailed(Internal):
    """A runtime's command ended with an error; the message is what the runtime says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OciCommand:
    """The runtime of one container. `command` is the program and what comes before the runtime's own flags."""

    container_id: str
    data_dir: str
    command: tuple[str, ...]

    @property
    def directory(self) -> str:
        return f"{self.data_dir}/{DIRECTORY}"

    @property
    def rootfs(self) -> str:
        return f"{self.directory}/rootfs"

    @property
    def _sources(self) -> str:
        return f"{self.directory}/sources"

    def begin(self) -> None:
        """Make the directory for a new life, after what is left of an earlier one. Raises OSError."""
        self.remove()
        for path in (self.directory, self.rootfs, self._sources, f"{self.directory}/state"):
            os.makedirs(path, mode=0o700)

    def make_source(self, *, is_directory: bool) -> str:
        """A new mount point. Raises OSError."""
        place = f"{self._sources}/{len(self.sources())}"
        if is_directory:
            os.mkdir(place, mode=0o700)
        else:
            os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode=0o600))
        return place

    def sources(self) -> list[str]:
        """The mount points that were made."""
        try:
            return [entry.path for entry in os.scandir(self._sources)]
        except FileNotFoundError:
            return []

    def remove(self) -> None:
        """Let the runtime forget the container, killing what lives, and remove the directory. Raises OSError."""
        if os.path.isdir(f"{self.directory}/state/{self.container_id}"):
            with contextlib.suppress(CommandFailed, DeadlineExceeded):
                self.run("delete", "--force", self.container_id)
        # First, and not with the tree: where they are mounted, that would be the container's files.
        for place in (*self.sources(), self.rootfs):
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(place) if os.path.isdir(place) else os.unlink(place)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.directory)

    def state(self) -> str:
        """creating, created, running, paused or stopped; "" when the runtime does not know the container."""
        try:
            told = json.loads(self.run("state", self.container_id))
            return str(told["status"])
        except (CommandFailed, DeadlineExceeded, ValueError, TypeError, KeyError):
            return ""

    def launch(self, verb: str, *flags: str, stdio: Stdio) -> int:
        """`create` or `exec`: the pid of the process that it leaves to the subreaper.

        The caller's current directory is the container's: the paths of sockets must be short.
        """
        self.run(
            verb, *flags, "--pid-file", f"{self.directory}/pid", self.container_id, stdio=stdio, limit=LONG_SECONDS
        )
        try:
            text = atomicfile.read(f"{self.directory}/pid", 32)
            atomicfile.remove(f"{self.directory}/pid", durable=False)
            return int(text)
        except (OSError, ValueError) as error:
            raise CommandFailed(f"it left no pid file: {error}") from error

    def run(self, *arguments: str, stdio: Stdio | None = None, limit: float = SHORT_SECONDS) -> bytes:
        """Run one command to its end; its output unless it was given `stdio`.

        Raises CommandFailed with the runtime's words, DeadlineExceeded after `limit` seconds.
        """
        log = f"{self.directory}/log"
        atomicfile.remove(log, durable=False)
        program = self.command[0]
        argv = [*self.command, "--root", f"{self.directory}/state", "--log", log, "--log-format", "json", *arguments]
        output = os.memfd_create("output", os.MFD_CLOEXEC)
        try:
            status = _wait(_spawn(program, argv, stdio or Stdio(stdout=output, stderr=output)), program, limit)
            said = os.pread(output, _TEXT_LIMIT, 0)
        finally:
            os.close(output)
        if status != 0:
            raise CommandFailed(_complaint(log, said) or f"{program} {arguments[0]} ended with status {status}")
        return said


def _spawn(program: str, argv: list[str], stdio: Stdio) -> int:
    """The command with signals as every program expects them, in a session of its own."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    wanted = (stdio.stdin, stdio.stdout, stdio.stderr)
    actions = [(os.POSIX_SPAWN_DUP2, null if fd < 0 else fd, number) for number, fd in enumerate(wanted)]
    try:
        return os.posix_spawn(
            program,
            argv,
            {"PATH": _PATH},
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=_ALL_SIGNALS,
        )
    except OSError as error:
        raise CommandFailed(f"fork/exec {program}: {(error.strerror or '').lower()}") from error
    finally:
        os.close(null)


def _wait(pid: int, program: str, limit: float) -> int:
    """Its exit status, 128 + n for signal n."""
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        in_time = bool(poll.poll(limit * 1000))
        if not in_time:
            with contextlib.suppress(ProcessLookupError):
                # Its session is its own: what it has forked goes too.
                os.killpg(pid, signal.SIGKILL)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(pidfd)
    if not in_time:
        raise DeadlineExceeded(f"{program} did not answer within {limit:g} s")
    return ended if ended >= 0 else 128 - ended


def _complaint(log: str, said: bytes) -> str:
    """The last error in the log, else the last line that it said."""
    try:
        lines = atomicfile.read(log, _TEXT_LIMIT).splitlines()
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        lines = []
    for line in reversed(lines):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            entry = json.loads(line)
            if entry["level"] in ("error", "fatal"):
                return str(entry["msg"])
    spoken = said.decode(errors="replace").strip().splitlines()
    return spoken[-1] if spoken else ""
