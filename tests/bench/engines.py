"""The engines that are compared, each with an installation of its own that is taken away afterwards."""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import select
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bulkhead.model.instance import SERVICES
from tests.bench.cpu_group import CpuGroup, accounting
from tests.bench.engine_client import EngineClient
from tests.support.engine import Engine as Installation
from tests.support.engine import free_subnet, private_engine

IMAGE = "busybox"
START_SECONDS = 30.0
STOP_SECONDS = 90.0


# Longer than a spare waits to be wanted, and at most (seconds). It is let go of at the second look of two, ten seconds
# apart, if it was wanted until the first (supervisor/spares.py).
_REST, _LONGEST_UNREST = 22.0, 60.0


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One engine under test. `kill` ends its daemons by SIGKILL, `start` returns when they answer again."""

    name: str
    socket: Path
    group: CpuGroup
    kill: Callable[[], None]
    start: Callable[[], None]
    installation: Installation | None = None

    def client(self) -> EngineClient:
        return EngineClient(self.socket)

    def restart(self) -> None:
        self.kill()
        self.start()

    def memory(self, without: set[int] | None = None) -> float:
        """Proportional set size of its processes, KiB (proc_pid_smaps_rollup(5))."""
        return sum(map(pss, self.group.pids - (without or set())))

    def rest(self) -> None:
        """Wait until it has as many processes as stay: spares that nobody wants are let go of in 20 seconds."""
        seen, since = self.group.pids, time.monotonic()
        end = since + _LONGEST_UNREST
        while time.monotonic() < min(since + _REST, end):
            time.sleep(0.2)
            if (now := self.group.pids) != seen:
                seen, since = now, time.monotonic()

    def remove_containers(self) -> None:
        client = self.client()
        for each in client.json("GET", "/containers/json?all=1"):
            client.remove(each["Id"])


def pss(pid: int) -> float:
    """KiB; 0 when it has ended."""
    with contextlib.suppress(OSError):
        found = re.search(r"^Pss: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        return float(found[1]) if found else 0.0
    return 0.0


@contextlib.contextmanager
def bulkhead() -> Iterator[Engine]:
    """All four services, busybox pulled."""
    group = CpuGroup(accounting())
    try:
        with private_engine() as installation:

            def start() -> None:
                with group.entered():
                    installation.start()

            start()
            installation.seed()
            installation.pulled(IMAGE)
            yield Engine(
                name="bulkhead",
                socket=installation.instance.docker_socket,
                group=group,
                kill=lambda: installation.kill(*SERVICES),
                start=start,
                installation=installation,
            )
    finally:
        group.remove()


@contextlib.contextmanager
def dockerd(*, iptables: bool = False) -> Iterator[Engine]:
    """dockerd on its own socket, data root and bridge; with `iptables` on a network namespace of its own."""
    root = Path(tempfile.mkdtemp(prefix="bh-dockerd-"))
    group, bridge, daemon = CpuGroup(accounting()), f"bhd{secrets.token_hex(3)}", _Dockerd(root, iptables=iptables)
    subnet = free_subnet()
    subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "address", "add", subnet.replace(".0/", ".1/"), "dev", bridge], check=True)
        subprocess.run(["ip", "link", "set", bridge, "up"], check=True)

        def start() -> None:
            with group.entered():
                daemon.start(bridge)

        start()
        _import_busybox(daemon.socket)
        engine = Engine(
            name="dockerd",
            socket=daemon.socket,
            group=group,
            kill=lambda: daemon.end(signal.SIGKILL),
            start=start,
        )
        try:
            yield engine
        finally:
            if not _answers(daemon.socket):
                engine.restart()
            engine.remove_containers()
    finally:
        daemon.end(signal.SIGTERM)
        for pid in group.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _unmount_below(root)
        subprocess.run(["ip", "link", "delete", bridge], check=False, capture_output=True)
        shutil.rmtree(root, ignore_errors=True)
        group.remove()


class _Dockerd:
    def __init__(self, root: Path, *, iptables: bool) -> None:
        self._root = root
        self._iptables = iptables
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = root / "docker.sock"

    def start(self, bridge: str) -> None:
        places = ["--data-root", f"{self._root}/data", "--exec-root", f"{self._root}/exec", "-p", f"{self._root}/pid"]
        # Its rules would outlive it and drop what others forward.
        network = [f"--bridge={bridge}", f"--iptables={str(self._iptables).lower()}", "--ip6tables=false"]
        network.append("--live-restore")  # or its containers would end with it
        command = ["dockerd", "-H", f"unix://{self.socket}", *places, *network, "--log-level", "error"]
        (self._root / "pid").unlink(missing_ok=True)
        with (self._root / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        _until(lambda: _answers(self.socket))

    def end(self, number: int) -> None:
        """End it, and the containerd that it has started: killed, dockerd leaves that behind."""
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.wait(STOP_SECONDS)
        self._process = None
        for place in self._root.glob("exec/containerd/containerd.pid"):
            with contextlib.suppress(OSError, ValueError):
                _end(int(place.read_text()))
            place.unlink(missing_ok=True)


def _end(pid: int) -> None:
    """SIGTERM to a process that is no child of ours, and wait."""
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        select.select([descriptor], [], [], STOP_SECONDS)
    finally:
        os.close(descriptor)


def _answers(socket: Path) -> bool:
    with contextlib.suppress(OSError, RuntimeError):
        EngineClient(socket).json("GET", "/containers/json")
        return True
    return False


def _until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError("the engine did not come up")
        time.sleep(0.02)


def _unmount_below(root: Path) -> None:
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        if (place := line.split()[4]).startswith(f"{root}/"):
            subprocess.run(["umount", "-l", place], check=False, capture_output=True)


def _import_busybox(socket: Path) -> None:
    command = ["docker", "-H", f"unix://{socket}", "import", "-c", 'CMD ["sh"]', "-", IMAGE]
    subprocess.run(command, input=busybox_tar(), check=True, capture_output=True)


def busybox_tar() -> bytes:
    """A root file system with busybox and its applets' names."""
    out = io.BytesIO()
    busybox = shutil.which("busybox") or "/bin/busybox"
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(busybox, "bin/busybox")
        for applet in applets:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            if applet != "busybox":
                tar.addfile(link)
    return out.getvalue()
