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
    with _podman() as podman:
        if podman and sitting.peers:
            commands["podman"] = podman
        for number in sitting.rounds(30, 6):
            for who, command in commands.items():
                begun = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True)
                if number:
                    sitting.record(ROW, who, (time.perf_counter() - begun) * 1e3)


@contextlib.contextmanager
def _podman() -> Iterator[list[str]]:
    """podman's command on a root file system of its own; empty where it is not installed or cannot run."""
    if shutil.which("podman") is None:
        yield []
        return
    place = Path(tempfile.mkdtemp(prefix="bh-podman-"))
    parent = f"/{place.name}"
    try:
        (place / "root").mkdir()
        subprocess.run(["tar", "-xf", "-", "-C", str(place / "root")], input=busybox_tar(), check=True)
        homes = ["--root", str(place / "data"), "--runroot", str(place / "run"), "--tmpdir", str(place / "tmp")]
        command = ["podman", *homes, "--cgroup-manager=cgroupfs", "--runtime=runc", "run", "--rm", "--network=none"]
        command += [*_LIMITS, "--cgroup-parent", parent, "--rootfs", f"{place}/root:O", "/bin/true"]
        works = subprocess.run(command, capture_output=True, check=False).returncode == 0
        yield command if works else []
    finally:
        subprocess.run(["umount", "-l", f"{place}/data/overlay"], check=False, capture_output=True)
        shutil.rmtree(place, ignore_errors=True)
        assert not os.path.lexists(place)
        remove_everywhere(parent)


BENCHES = (Bench(name="cli", about="docker run --rm by the CLI, and podman run", run=command_lines),)
