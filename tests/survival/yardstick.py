"""The same kills under Bulkhead and under dockerd with live-restore: `python -m tests.survival.yardstick`.

What each has lost is told case by case: lines of output, exit codes, containers that cannot be used, what stays behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from tests.security.defaults.dockerd import Dockerd, _await, _clear
from tests.support.engine import Engine, docker_cli, private_engine

LINES = 10_000
_COUNT = f"i=1; while [ $i -le {LINES} ]; do echo $i; [ $((i % 20)) = 0 ] && usleep 10000; i=$((i+1)); done; exit 7"
_EXIT_7 = "trap 'exit 7' TERM; echo armed; while :; do sleep 0.05; done"
_SECONDS = 20.0
_TRIES = 8


class Subject(Protocol):
    """One of the two engines."""

    def docker(self, *words: str) -> subprocess.CompletedProcess[str]: ...

    def kill_daemons(self) -> None: ...

    def start_daemons(self) -> None: ...

    def shim(self, container_id: str) -> int: ...


class OurEngine:
    """Bulkhead."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def docker(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self._engine.docker(*words)

    def kill_daemons(self) -> None:
        self._engine.kill()

    def start_daemons(self) -> None:
        self._engine.start()

    def shim(self, container_id: str) -> int:
        return int(json.loads((self._engine.instance.container_data(container_id) / "shim.json").read_bytes())["pid"])


class TheirEngine(Dockerd):
    """dockerd with live-restore, and the containerd that it starts."""

    process: subprocess.Popen[bytes]

    def docker(self, *words: str) -> subprocess.CompletedProcess[str]:  # type: ignore[override]
        environ = {**os.environ, "DOCKER_HOST": f"unix://{self.base}/docker.sock", "DOCKER_CONFIG": str(self.base)}
        command = [docker_cli(), *words]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)

    def start_daemons(self) -> None:
        (self.base / "docker.sock").unlink(missing_ok=True)
        (self.base / "pid").unlink(missing_ok=True)
        # Where nobody reaps orphans, the pid in there is a zombie's, and dockerd would wait for it: not its fault.
        (self.base / "exec" / "containerd" / "containerd.pid").unlink(missing_ok=True)
        with (self.base / "log").open("ab") as log:
            command = [*self.command(), "--live-restore"]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.base)
        _await(self.base / "docker.sock", self.process)
        _until(lambda: self.docker("ps").returncode == 0)

    def kill_daemons(self) -> None:
        self.process.kill()
        self.process.wait()
        for pid in _processes("containerd", str(self.base)):
            if "shim" not in Path(f"/proc/{pid}/comm").read_text():
                os.kill(pid, signal.SIGKILL)

    def shim(self, container_id: str) -> int:
        return _processes("containerd-shim", container_id)[0]


def main() -> int:
    """Both engines through all cases; the table at the end."""
    told: dict[str, list[str]] = {}
    with private_engine() as engine:
        engine.start()
        engine.seed()
        engine.pulled("busybox")
        with tempfile.TemporaryDirectory(prefix="bh-ys-", dir="/tmp") as place:
            image = f"{place}/busybox.tar"
            engine.docker_ok("save", "-o", image, "busybox")
            _walk(OurEngine(engine), told)
            with _dockerd(image) as theirs:
                _walk(theirs, told)
    print(f"{'case':<44} {'Bulkhead':<44} dockerd, live-restore")
    for case, (ours, others) in told.items():
        print(f"{case:<44} {ours:<44} {others}")
    return 0


def _walk(subject: Subject, told: dict[str, list[str]]) -> None:
    for case, walk in CASES.items():
        try:
            outcome = walk(subject)
        except (AssertionError, OSError, subprocess.SubprocessError, IndexError) as error:
            outcome = f"failed: {type(error).__name__} {str(error)[:60]}"
            subject.start_daemons()
        told.setdefault(case, []).append(outcome)
        print(f"{type(subject).__name__}: {case}: {outcome}", flush=True)
        for each in subject.docker("ps", "-aq").stdout.split():
            subject.docker("rm", "-f", each)


def _writer(subject: Subject) -> str:
    made = _ok(subject, "run", "-d", "--network", "none", "busybox", "sh", "-c", _COUNT)
    _until(lambda: len(_ok(subject, "logs", made).split()) > LINES // 10)
    return made


def _verdict(subject: Subject, made: str) -> str:
    code = subject.docker("wait", made).stdout.strip()
    found = {int(line) for line in _ok(subject, "logs", made).split()}
    return f"{LINES - len(found)} of {LINES} lines lost, exit code {code}"


def daemons_under_writer(subject: Subject) -> str:
    made = _writer(subject)
    subject.kill_daemons()
    time.sleep(0.5)
    subject.start_daemons()
    return _verdict(subject, made)


def shim_under_writer(subject: Subject) -> str:
    made = _writer(subject)
    os.kill(subject.shim(made), signal.SIGKILL)
    return _verdict(subject, made)


def exit_while_dead(subject: Subject) -> str:
    made = _ok(subject, "run", "-d", "--network", "none", "busybox", "sh", "-c", _EXIT_7)
    _until(lambda: "armed" in _ok(subject, "logs", made))
    pid = int(_ok(subject, "inspect", "-f", "{{.State.Pid}}", made))
    subject.kill_daemons()
    os.kill(pid, signal.SIGTERM)
    _until(lambda: not _lives(pid))
    subject.start_daemons()
    return f"exit code {subject.docker('wait', made).stdout.strip()}, true is 7"


def shim_and_exit(subject: Subject) -> str:
    """The shim dies, then the container ends by itself."""
    made = _ok(subject, "run", "-d", "--network", "none", "busybox", "sh", "-c", _EXIT_7)
    _until(lambda: "armed" in _ok(subject, "logs", made))
    pid = int(_ok(subject, "inspect", "-f", "{{.State.Pid}}", made))
    os.kill(subject.shim(made), signal.SIGKILL)
    time.sleep(0.5)
    survived = _lives(pid)
    if survived:
        subject.docker("stop", made)
    code = subject.docker("wait", made).stdout.strip()
    return f"{'lived on' if survived else 'was killed'}, exit code {code}, true is {7 if survived else 137}"


def everything(subject: Subject) -> str:
    """Daemons and shim at once."""
    made = _ok(subject, "run", "-d", "--network", "none", "busybox", "sh", "-c", _EXIT_7)
    _until(lambda: "armed" in _ok(subject, "logs", made))
    pid, shim = int(_ok(subject, "inspect", "-f", "{{.State.Pid}}", made)), subject.shim(made)
    subject.kill_daemons()
    os.kill(shim, signal.SIGKILL)
    subject.start_daemons()
    time.sleep(1)
    says = _ok(subject, "inspect", "-f", "{{.State.Status}}", made)
    lives = _lives(pid)
    worked = subject.docker("exec", made, "true").returncode == 0
    subject.docker("rm", "-f", made)
    left = ", its process is left after rm -f" if _lives(pid) else ""
    return f"{'lives' if lives else 'dead'}, is told {says}, exec {'works' if worked else 'fails'}{left}"


def in_the_middle(subject: Subject) -> str:
    """Daemons killed at random moments of a run; then rm of what is there and the same run again."""
    chance, bad = random.Random(1), 0
    for number in range(_TRIES):
        name = f"middle{number}"
        command = ["run", "-d", "--name", name, "--network", "none", "busybox", "sleep", "1000"]
        with contextlib.ExitStack() as stack:
            thread = _Background(lambda: subject.docker(*command))  # noqa: B023
            stack.callback(thread.join)
            time.sleep(chance.uniform(0.02, 0.5))
            subject.kill_daemons()
        subject.start_daemons()
        subject.docker("rm", "-f", name)
        again = subject.docker(*command)
        gone = subject.docker("rm", "-f", name)
        bad += again.returncode != 0 or gone.returncode != 0
    return f"{bad} of {_TRIES} could not be repeated and removed"


class _Background:
    def __init__(self, work: Callable[[], object]) -> None:
        import threading

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def join(self) -> None:
        self._thread.join()


CASES: dict[str, Callable[[Subject], str]] = {
    "all daemons, under a writer": daemons_under_writer,
    "its shim, under a writer": shim_under_writer,
    "all daemons; it ends before they are back": exit_while_dead,
    "its shim; then stop": shim_and_exit,
    "all daemons and its shim": everything,
    "all daemons in the middle of a run": in_the_middle,
}


@contextlib.contextmanager
def _dockerd(image: str) -> Iterator[TheirEngine]:
    theirs = TheirEngine(Path(tempfile.mkdtemp(prefix="bh-dockerd-", dir="/tmp")))
    try:
        theirs.start_daemons()
        _ok(theirs, "load", "-i", image)
        yield theirs
    finally:
        theirs.kill_daemons()
        for pid in _processes("containerd-shim", str(theirs.base)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _end_orphans(theirs)
        _clear(theirs)


def _end_orphans(theirs: TheirEngine) -> None:
    """Containers' processes that dockerd has lost sight of."""
    for group in Path("/sys/fs/cgroup").glob(f"*{theirs.parent}/*/cgroup.procs"):
        for pid in group.read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    time.sleep(0.5)
    for root in Path("/sys/fs/cgroup").glob(f"*{theirs.parent}/*/"):
        with contextlib.suppress(OSError):
            root.rmdir()


def _processes(name: str, about: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            if name in line.split(" ")[0] and about in line:
                found.append(int(entry.name))
    return found


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _ok(subject: Subject, *words: str) -> str:
    done = subject.docker(*words)
    assert done.returncode == 0, (words, done.stderr[-200:])
    return done.stdout.strip()


def _until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not what():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main())
