"""`run` of busybox true as a command: ours beside runc and crun, one bundle, interleaved (budget 25 ms).

python -m tests.bench.runtime_command_bench [rounds] [--json]
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bulkhead.linux.cgroups import Cgroup
from bulkhead.runtime import defaults
from tests.bench.sitting import Bench, Samples, apart
from tests.bench.standalone import run as run_standalone
from tests.support.containers import docker_config, make_image

RUNTIMES = {
    "bulkhead": [str(Path(sys.executable).with_name("bulkhead-runtime"))],
    "runc": ["runc"],
    "crun": ["crun"],
    "python -IS": [sys.executable, "-IS", "-c", "1"],
}

_INSIDE = "BULKHEAD_BENCH_UNIFIED"


def bundle(base: Path, name: str, parent: str, *, confined: bool) -> Path:
    """Docker's config; without its seccomp profile, most of whose price is compiling it, when not `confined`."""
    config = docker_config(f"{parent}/{name}", ("true",))
    config["root"] = {"path": str(base / "image")}
    config["ociVersion"] = "1.0.2"  # the newest that all of them know
    if confined:
        config["linux"]["seccomp"] = defaults.default_seccomp(defaults.DEFAULT_CAPABILITIES)
    else:
        config["linux"].pop("seccomp", None)
    config["linux"].pop("resources", None)  # crun's device rules need CAP_SYS_RESOURCE
    place = base / name
    place.mkdir()
    (place / "config.json").write_text(json.dumps(config))
    return place


def once(command: list[str], place: Path, root: Path) -> tuple[float, float]:
    """Wall and CPU milliseconds of the command and what it waited for."""
    whole = command if "-c" in command else [*command, "--root", str(root), "run", "--bundle", str(place), "bench"]
    begun = time.perf_counter()
    process = subprocess.Popen(whole, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begun
    assert process.stderr is not None
    problem = process.stderr.read().decode(errors="replace")
    process.stderr.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{whole}: {problem}")
    return wall * 1e3, (used.ru_utime + used.ru_stime) * 1e3


def in_unified() -> None:
    """Go on in a mount namespace where cgroup v2 is all there is: crun 1.8 does not run beside v1."""
    mount = "umount -l /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup"
    again = f"{mount} && exec {sys.executable} -m tests.bench.runtime_command_bench {' '.join(sys.argv[1:])}"
    os.execvpe("unshare", ["unshare", "--mount", "sh", "-c", again], {**os.environ, _INSIDE: "1"})


def measure(rounds: int) -> Samples:
    """Both configurations, the commands turn by turn."""
    present = {name: command for name, command in RUNTIMES.items() if shutil.which(command[0])}
    parent, samples = f"/bh-bench-{secrets.token_hex(3)}", Samples()
    with tempfile.TemporaryDirectory(prefix="bh-bench-") as directory:
        base = Path(directory)
        make_image(base / "image")
        try:
            for confined in (False, True):
                name = "seccomp" if confined else "no seccomp"
                place = bundle(base, "confined" if confined else "plain", parent, confined=confined)
                for _ in range(rounds):
                    for who, command in present.items():
                        wall, used = once(command, place, base / "state" / command[0].strip("/"))
                        samples.setdefault(f"runtime command, run, {name} [ms]", {}).setdefault(who, []).append(wall)
                        samples.setdefault(f"runtime command, run, {name}, CPU [ms]", {}).setdefault(who, []).append(
                            used
                        )
        finally:
            Cgroup(parent).remove()
    return samples


BENCHES = (
    Bench(
        name="command", about="bulkhead-runtime run, beside runc and crun", run=apart("runtime_command_bench", 30, 10)
    ),
)

if __name__ == "__main__":
    if _INSIDE not in os.environ:
        in_unified()
    run_standalone(measure, __doc__, 30)
