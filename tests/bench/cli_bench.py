"""What a user waits for: `docker run --rm` by the same CLI against each engine, and podman's own command."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.engines import IMAGE, busybox_tar
from tests.bench.sitting import Bench, Sitting
from tests.support.peers import remove_everywhere

ROW = "run --rm true, no network, command line [ms]"
# podman asks for the host's limits, which it may not set everywhere.
_LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")


def command_lines(sitting: Sitting) -> None:
    """The commands turn by turn."""
    if shutil.which("docker") is None:
        return
    commands = {
        engine.name: ["docker", "-H", f"unix://{engine.socket}", "run", "--rm", "--network=none", IMAGE, "true"]
        for engine in sitting.engines
    }
    with podman_place() as place:
        if sitting.peers and (podman := _podman(place)):
            commands["podman"] = podman
        for number in sitting.rounds(30, 6):
            for who, command in commands.items():
                begun = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True)
                if number:
                    sitting.record(ROW, who, (time.perf_counter() - begun) * 1e3)


@contextlib.contextmanager
def podman_place() -> Iterator[Path]:
    """A directory for podman's homes, and a cgroup of its name: taken away with what podman has left there."""
    place = Path(tempfile.mkdtemp(prefix="bh-podman-"))
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", f"{place}/data/overlay"], check=False, capture_output=True)
        shutil.rmtree(place, ignore_errors=True)
        assert not os.path.lexists(place)
        remove_everywhere(f"/{place.name}")


def podman_command(place: Path) -> list[str]:
    """podman with its homes there; empty where it is not installed."""
    if shutil.which("podman") is None:
        return []
    return ["podman", "--root", f"{place}/data", "--runroot", f"{place}/run", "--tmpdir", f"{place}/tmp"]


def _podman(place: Path) -> list[str]:
    """podman's `run` on a root file system of its own; empty where it cannot run."""
    if not (podman := podman_command(place)):
        return []
    (place / "root").mkdir()
    subprocess.run(["tar", "-xf", "-", "-C", str(place / "root")], input=busybox_tar(), check=True)
    command = [*podman, "--cgroup-manager=cgroupfs", "--runtime=runc", "run", "--rm", "--network=none"]
    command += [*_LIMITS, "--cgroup-parent", f"/{place.name}", "--rootfs", f"{place}/root:O", "/bin/true"]
    return command if subprocess.run(command, capture_output=True, check=False).returncode == 0 else []


BENCHES = (Bench(name="cli", about="docker run --rm by the CLI, and podman run", run=command_lines),)
