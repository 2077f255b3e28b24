"""A private dockerd to compare with: no bridge, no firewall rules, nothing of it left afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine import docker_cli

START_SECONDS = 30.0


class Dockerd:
    def __init__(self, base: Path) -> None:
        self.base = base
        self.parent = f"/{base.name}"

    def docker(self, *words: str, input: bytes | None = None) -> str:
        host = f"unix://{self.base}/docker.sock"
        environ = {**os.environ, "DOCKER_HOST": host, "DOCKER_CONFIG": str(self.base)}
        done = subprocess.run(
            [docker_cli(), *words], env=environ, input=input, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, (words, done.stderr.decode())
        return done.stdout.decode()

    def command(self) -> list[str]:
        return [
            "dockerd",
            *("-H", f"unix://{self.base}/docker.sock", "--data-root", f"{self.base}/data"),
            *("--exec-root", f"{self.base}/exec", "-p", f"{self.base}/pid", "--cgroup-parent", self.parent),
            *("--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"),
            *("--storage-driver", "overlay2"),
        ]


@contextlib.contextmanager
def private_dockerd() -> Iterator[Dockerd]:
    """Skips where dockerd is absent or does not start."""
    if shutil.which("dockerd") is None:
        pytest.skip("no dockerd on this machine")
    found = Dockerd(Path(tempfile.mkdtemp(prefix="bh-dockerd-", dir="/tmp")))
    with (found.base / "log").open("wb") as log:
        process = subprocess.Popen(found.command(), stdout=log, stderr=log, cwd=found.base)
    try:
        _await(found.base / "docker.sock", process)
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _clear(found)


def _await(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.skip(f"dockerd does not start: {(path.parent / 'log').read_text()[-500:]}")
        time.sleep(0.05)


def _clear(found: Dockerd) -> None:
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        place = line.split()[4]
        if place.startswith(f"{found.base}/"):
            subprocess.run(["umount", "-l", place], check=False)
    for root in Path("/sys/fs/cgroup").iterdir():
        with contextlib.suppress(OSError):
            (root / found.parent.lstrip("/")).rmdir()
    shutil.rmtree(found.base, ignore_errors=True)
