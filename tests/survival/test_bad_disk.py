"""The data directory is on a disk that is full, then slow: containers run on, everything can be removed, and what
the log lacks is said. A file system of its own, mounted where only this test looks."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkhead.model.instance import SERVICES
from tests.support.engine import Engine, docker_cli, private_engine
from tests.support.eventually import until

pytestmark = [pytest.mark.root]
SECONDS = 30.0
SIZE = 96 << 20
# More than the shim holds back in memory.
LINES = 200_000
# More than all that can wait, however late the shim is: a pipe full, one reading more, and the backlog.
OVERFLOW = 500_000


class Disk:
    """A small ext4 in a file."""

    def __init__(self, base: Path) -> None:
        self.place = base / "disk"
        self.image = base / "image"
        self._filler = self.place / "filler"

    def mount(self) -> None:
        self.place.mkdir()
        with self.image.open("wb") as file:
            file.truncate(SIZE)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", self.image], check=True)
        mounted = subprocess.run(["mount", "-o", "loop", self.image, self.place], check=False)
        if mounted.returncode:
            pytest.skip("no loop devices here")

    def fill(self) -> None:
        """Take every block, also those that were freed since, or are just then."""
        until(self._filled)

    def _filled(self) -> bool:
        with self._filler.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError:
                    continue
        return os.statvfs(self.place).f_bavail == 0

    def free(self) -> None:
        self._filler.unlink()

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", self.place], check=False)


@pytest.fixture
def disk() -> Iterator[Disk]:
    with tempfile.TemporaryDirectory(prefix="bh-disk-", dir="/tmp") as base:
        disk = Disk(Path(base))
        disk.mount()
        try:
            yield disk
        finally:
            disk.unmount()


@pytest.fixture
def engine(disk: Disk) -> Iterator[Engine]:
    with private_engine(BULKHEAD_DATA=str(disk.place / "data")) as engine:
        engine.start()
        engine.seed()
        engine.pulled("busybox")
        yield engine


def state(engine: Engine, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(engine.docker_ok("inspect", name))[0]["State"]
    return found


def test_on_a_full_disk_everything_can_be_stopped_and_removed(engine: Engine, disk: Disk) -> None:
    engine.docker_ok("run", "-d", "--name", "runs", "busybox", "sleep", "1000")
    engine.docker_ok("run", "-d", "--name", "forced", "busybox", "sleep", "1000")
    big = "dd if=/dev/zero of=/big bs=1M count=8; trap 'seq 1 200000; exit 3' TERM; echo armed; sleep 1000 & wait"
    engine.docker_ok("run", "-d", "--name", "talks", "busybox", "sh", "-c", big)
    engine.docker_ok("create", "--name", "idle", "-v", "unused:/data", "busybox", "true")
    until(lambda: "armed" in engine.docker_ok("logs", "talks"))
    daemons = {service: engine.pid(service) for service in SERVICES}

    disk.fill()
    refused = engine.docker("run", "busybox", "true")
    assert refused.returncode == 125
    assert "No space left on device: docker system prune frees what is unused" in refused.stderr
    assert engine.docker_ok("exec", "runs", "echo", "hello") == "hello"
    # A manager that dies or stops on a full disk comes back.
    engine.kill("manager")
    engine.start("manager")
    disk.fill()
    engine.restart("manager")
    disk.fill()

    engine.docker_ok("stop", "-t", "10", "talks")
    ended = state(engine, "talks")
    assert ended["ExitCode"] == 3
    losses = ended["Losses"]
    assert isinstance(losses, list)
    assert losses[0]["What"] == "log"
    assert 0 < losses[0]["Lines"] <= LINES
    disk.fill()
    engine.docker_ok("stop", "-t", "0", "runs")
    disk.fill()
    for name in ("runs", "talks"):
        engine.docker_ok("rm", name)
        if name == "talks":
            until(lambda: os.statvfs(disk.place).f_bavail * 4096 >= 8_000_000)  # they go in the background
        disk.fill()
    engine.docker_ok("rm", "-f", "forced")
    engine.docker_ok("container", "prune", "-f")
    engine.docker_ok("volume", "prune", "-af")
    engine.docker_ok("rmi", "busybox")
    engine.docker_ok("system", "prune", "-af", "--volumes")
    assert engine.docker_ok("ps", "-aq") == engine.docker_ok("volume", "ls", "-q") == ""

    disk.free()
    engine.pulled("busybox")
    assert engine.docker_ok("run", "--rm", "busybox", "echo", "works") == "works"
    del daemons["manager"]
    assert {service: engine.pid(service) for service in daemons} == daemons


def test_a_disk_that_stands_still_does_not_hold_the_container(engine: Engine, disk: Disk, tmp_path: Path) -> None:
    """Frozen for longer than the log's patience: lines are lost and counted, the container goes on, others answer."""
    script = f"echo armed; while [ ! -e /shared/go ]; do sleep 0.05; done; seq 1 {OVERFLOW}; touch /shared/done; read x"
    engine.docker_ok("run", "-di", "--name", "talks", "-v", f"{tmp_path}:/shared", "busybox", "sh", "-c", script)
    until(lambda: "armed" in engine.docker_ok("logs", "talks"))
    with frozen(disk):
        (tmp_path / "go").touch()
        until((tmp_path / "done").exists)
        assert "talks" in engine.docker_ok("ps", "--format", "{{.Names}}")
    until(lambda: "of log were lost" in engine.docker("logs", "talks").stderr)
    told = engine.docker("logs", "talks")
    marker = next(line for line in told.stderr.splitlines() if "of log were lost" in line)
    assert marker.endswith("were lost: the disk is too slow]")
    assert len(told.stdout.splitlines()) - 1 + int(marker.split()[1]) == OVERFLOW


# Each writes to the disk in its own way.
HELD = (
    ("create", "busybox", "true"),
    ("start", "idle"),
    ("exec", "runs", "true"),
    ("rename", "idle", "other"),
    ("update", "--restart", "always", "runs"),
    ("kill", "killed"),
    ("rm", "gone"),
    ("rm", "-f", "forced"),
    ("volume", "create", "made"),
    ("volume", "rm", "unused"),
    ("network", "create", "made"),
    ("tag", "busybox", "tagged"),
    ("commit", "runs", "committed"),
    ("commit", "still", "committed-too"),
    ("diff", "runs"),
    ("cp", __file__, "runs:/"),
    ("cp", __file__, "idle:/"),
    ("import", __file__, "imported"),
    ("pull", "hello-world"),
)


def test_a_disk_that_stands_still_holds_only_who_writes_to_it(engine: Engine, disk: Disk) -> None:
    for name in ("runs", "forced", "killed"):
        engine.docker_ok("run", "-d", "--name", name, "busybox", "sleep", "1000")
    for name in ("idle", "gone", "still"):
        engine.docker_ok("create", "--name", name, "busybox", "true")
    engine.docker_ok("volume", "create", "unused")
    ended = [int(str(state(engine, name)["Pid"])) for name in ("forced", "killed")]
    with contextlib.ExitStack() as clients:
        with frozen(disk):
            held = [clients.enter_context(client(engine, *arguments)) for arguments in HELD]
            until(lambda: in_flight(engine) >= len(HELD) // 2)
            until(lambda: not any(map(is_alive, ended)))
            for path in ("/containers/json?all=1", "/containers/runs/json", "/images/json", "/info", "/_ping"):
                assert engine.api("GET", path, seconds=SECONDS).status == 200
        for process in held:
            process.wait(SECONDS)
    assert {"other", "runs", "killed"} < set(engine.docker_ok("ps", "-a", "--format", "{{.Names}}").split())


def is_alive(pid: int) -> bool:
    """A zombie, whose shim waits for the disk, is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextlib.contextmanager
def frozen(disk: Disk) -> Iterator[None]:
    subprocess.run(["fsfreeze", "-f", disk.place], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "-u", disk.place], check=True)


def client(engine: Engine, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([docker_cli(), *arguments], env=engine.environ, stdout=subprocess.DEVNULL)


def in_flight(engine: Engine) -> int:
    """How many operations are."""
    return len(engine.api("GET", "/debug/ops", seconds=SECONDS).json["Operations"])
