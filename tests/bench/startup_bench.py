"""From nothing to ready: each service, and all of them by `make up`. Beside dockerd: `many_bench.restarts`."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from pathlib import Path

from bulkhead.ctl import health
from bulkhead.model.instance import SERVICES
from tests.bench.sitting import Bench, Sitting
from tests.support.engine import Engine, private_engine


def services(sitting: Sitting) -> None:
    """Each service alone, the others running; its CPU time by the way."""
    with private_engine() as installation:
        installation.start()
        for _ in sitting.rounds(30, 3):
            for service in SERVICES:
                installation.stop(service)
                seconds, used = _start(installation, service)
                sitting.record(f"start of {service} to ready [s]", "bulkhead", seconds)
                sitting.record(f"start of {service}, CPU [s]", "bulkhead", used)


def _start(installation: Engine, service: str) -> tuple[float, float]:
    """Until it answers as ready; its own CPU time by then (proc_pid_stat(5), children's too)."""
    begun = time.perf_counter()
    process = installation.daemons.launch(service)
    try:
        asyncio.run(health.wait_ready(installation.instance, (service,), 30, lambda _: process.poll() is not None))
        seconds = time.perf_counter() - begun
    finally:
        installation._launched.append(process)
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return seconds, sum(map(int, fields[11:15])) / 100


def up(sitting: Sitting) -> None:
    """`make up` on a built tree: from nothing to four services with the embedded images."""
    for _ in sitting.rounds(30, 2):
        with private_engine() as installation, contextlib.chdir("/"):
            begun = time.perf_counter()
            command = [sys.executable, "-m", "bulkhead.ctl", "up"]
            done = subprocess.run(command, env=installation.environ, check=False, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"make up: {done.stdout}{done.stderr}")
            sitting.record("make up on a built tree [s]", "bulkhead", time.perf_counter() - begun)


BENCHES = (
    Bench(name="start", about="each service's start to ready", run=services),
    Bench(name="up", about="make up", run=up),
)
