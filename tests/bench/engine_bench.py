"""Bulkhead beside dockerd, through the same HTTP API, interleaved in one sitting.

    python -m tests.bench.engine_bench [--rounds 12] [--socket PATH] [--dockerd PATH|none]

Without --socket a private Bulkhead instance is started; without --dockerd a private dockerd is, when installed.
Prints medians, the spread between the 10th and 90th percentile, and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.engine_client import EngineClient

IMAGE = "busybox"


@dataclass
class Engine:
    """One engine under test; `processes` lists the pids whose memory counts as the engine's."""

    name: str
    socket: Path
    processes: Callable[[], set[int]]
    samples: dict[str, list[float]] = field(default_factory=dict)

    def record(self, metric: str, value: float) -> None:
        self.samples.setdefault(metric, []).append(value)


def lifecycle(engine: Engine, network: str) -> None:
    """create, start, wait, remove of `true`; milliseconds each and in sum."""
    client = EngineClient(engine.socket)
    marks = [time.perf_counter()]
    container = client.create(IMAGE, ["true"], NetworkMode=network)
    marks.append(time.perf_counter())
    client.start(container)
    marks.append(time.perf_counter())
    client.wait(container)
    marks.append(time.perf_counter())
    client.remove(container)
    marks.append(time.perf_counter())
    for step, begun, ended in zip(("create", "start", "wait", "remove"), marks, marks[1:], strict=False):
        engine.record(f"{step}, {network} [ms]", (ended - begun) * 1e3)
    engine.record(f"create+start+wait+remove, {network} [ms]", (marks[-1] - marks[0]) * 1e3)


def exec_and_inspect(engine: Engine, repeat: int) -> None:
    """Attached exec of `true` with its exit code read, and inspect, against one running container."""
    client = EngineClient(engine.socket)
    container = client.create(IMAGE, ["sleep", "3600"], NetworkMode="none")
    client.start(container)
    try:
        for _ in range(repeat):
            begun = time.perf_counter()
            client.exec(container, ["true"])
            engine.record("exec true, attached [ms]", (time.perf_counter() - begun) * 1e3)
            begun = time.perf_counter()
            client.json("GET", f"/containers/{container}/json")
            engine.record("inspect [ms]", (time.perf_counter() - begun) * 1e3)
    finally:
        client.remove(container)


def concurrency(engine: Engine, network: str, clients: int = 8, each: int = 6) -> None:
    """Whole lives of containers per second with `clients` at once."""

    def work() -> None:
        client = EngineClient(engine.socket)
        for _ in range(each):
            container = client.create(IMAGE, ["true"], NetworkMode=network)
            client.start(container)
            client.wait(container)
            client.remove(container)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.record(f"{clients} clients, {network} [containers/s]", clients * each / (time.perf_counter() - begun))


def memory(engine: Engine, count: int = 20) -> None:
    """Growth of the engine's own proportional memory per running container, the container's processes left out."""
    client = EngineClient(engine.socket)
    before = _pss(engine.processes())
    containers = [client.create(IMAGE, ["sleep", "3600"], NetworkMode="none") for _ in range(count)]
    try:
        for container in containers:
            client.start(container)
        inside = {client.json("GET", f"/containers/{each}/json")["State"]["Pid"] for each in containers}
        engine.record("memory per container [KiB]", (_pss(engine.processes() - inside) - before) / count)
    finally:
        begun = time.perf_counter()
        for container in containers:
            client.remove(container)
        engine.record(f"remove {count} running [s]", time.perf_counter() - begun)


def logs(engine: Engine, megabytes: int = 64) -> None:
    """Throughput of a container that prints lines of 80 bytes, and of reading them back."""
    client = EngineClient(engine.socket)
    line = "x" * 79
    script = f"yes {line} | head -c {megabytes * 1_000_000}"
    options = {"NetworkMode": "none", "LogConfig": {"Type": "json-file", "Config": {"max-size": "1g"}}}
    container = client.create(IMAGE, ["sh", "-c", script], **options)
    try:
        begun = time.perf_counter()
        client.start(container)
        client.wait(container)
        engine.record("log write [MB/s]", megabytes / (time.perf_counter() - begun))
        begun = time.perf_counter()
        _, data = client.call("GET", f"/containers/{container}/logs?stdout=1&stderr=1")
        if len(data) < megabytes * 1_000_000:
            raise RuntimeError(f"{engine.name}: only {len(data)} bytes of log came back")
        engine.record("log read [MB/s]", megabytes / (time.perf_counter() - begun))
    finally:
        client.remove(container)


def _pss(pids: set[int]) -> float:
    """Sum of the proportional set sizes of `pids`, KiB (proc_pid_smaps_rollup(5))."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += float(line.split()[1])
    return total


def _processes_matching(*needles: str) -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if any(needle in command for needle in needles):
                    found.add(int(entry.name))
    return found


def _busybox_tar() -> bytes:
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


@contextlib.contextmanager
def private_dockerd(given: str | None) -> Iterator[Engine | None]:
    """dockerd on its own socket, data root and bridge; None when it is not installed or not wanted."""
    if given == "none" or (given is None and not shutil.which("dockerd")):
        yield None
        return
    if given:
        yield Engine("dockerd", Path(given), lambda: _processes_matching("dockerd", "containerd"))
        return
    root = Path(tempfile.mkdtemp(prefix="bh-dockerd-"))
    command = [
        "dockerd",
        "-H",
        f"unix://{root}/docker.sock",
        "--data-root",
        f"{root}/data",
        "--exec-root",
        f"{root}/exec",
    ]
    command += ["-p", f"{root}/pid", "--bip", "172.31.250.1/24", "--log-level", "error"]
    command += ["--iptables=false", "--ip6tables=false"]  # its rules would outlive it and drop what others forward
    with (root / "log").open("wb") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        socket = root / "docker.sock"
        _until(
            lambda: (
                socket.exists()
                and subprocess.run(["docker", "-H", f"unix://{socket}", "info"], capture_output=True).returncode == 0
            )
        )
        subprocess.run(
            ["docker", "-H", f"unix://{socket}", "import", "-c", 'CMD ["sh"]', "-", IMAGE],
            input=_busybox_tar(),
            check=True,
            capture_output=True,
        )
        yield Engine("dockerd", socket, lambda: _processes_matching(str(root), "containerd-shim"))
    finally:
        daemon.terminate()
        daemon.wait(30)
        subprocess.run(["ip", "link", "delete", "docker0"], capture_output=True)
        shutil.rmtree(root, ignore_errors=True)


def _until(ready: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError("the engine did not come up")
        time.sleep(0.1)


@contextlib.contextmanager
def bulkhead(given: str | None) -> Iterator[Engine]:
    """The instance at `given`, or a private one."""
    if given:
        yield Engine("bulkhead", Path(given), lambda: _processes_matching("bulkhead"))
        return
    from tests.support.engine import private_engine

    with private_engine() as engine:
        engine.start()
        engine.seed()
        engine.pulled("busybox")
        yield Engine("bulkhead", engine.instance.docker_socket, lambda: _processes_matching("bulkhead"))


def measure(engines: list[Engine], rounds: int) -> None:
    """Every metric on every engine, turn by turn, so that other load hits all alike."""
    for number in range(rounds + 1):
        for engine in engines:
            lifecycle(engine, "none")
            lifecycle(engine, "bridge")
            if number == 0:
                engine.samples.clear()  # the first round warms caches
    for engine in engines:
        exec_and_inspect(engine, rounds * 2)
    for _ in range(3):
        for engine in engines:
            concurrency(engine, "none")
            concurrency(engine, "bridge")
            logs(engine)
    for engine in engines:
        memory(engine)


def report(engines: list[Engine]) -> str:
    """The table, as Markdown; ratio = how many times better the first engine is."""
    lines = ["| metric | " + " | ".join(f"{each.name} (p10-p90)" for each in engines) + " | ratio |"]
    lines.append("|---|" + "--:|" * (len(engines) + 1))
    for metric in engines[0].samples:
        medians = [statistics.median(each.samples[metric]) for each in engines]
        cells = [
            f"{_figure(median)} ({_spread(each.samples[metric])})"
            for median, each in zip(medians, engines, strict=True)
        ]
        lines.append(f"| {metric} | " + " | ".join(cells) + f" | {_ratio(metric, medians)} |")
    return "\n".join(lines)


def _ratio(metric: str, medians: list[float]) -> str:
    if len(medians) < 2:
        return "-"
    ours, theirs = medians
    better = ours / theirs if "/s]" in metric else theirs / ours
    return f"{better:.1f}x"


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def _spread(values: list[float]) -> str:
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 10], ordered[-1 - len(ordered) // 10]
    return f"{_figure(low)}-{_figure(high)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--socket", help="docker.sock of a running Bulkhead")
    parser.add_argument("--dockerd", help="socket of a running dockerd, or none")
    options = parser.parse_args()
    with bulkhead(options.socket) as ours, private_dockerd(options.dockerd) as theirs:
        engines = [ours, *([theirs] if theirs else [])]
        measure(engines, options.rounds)
        sys.stdout.write(report(engines) + "\n")
        sys.stdout.write(
            f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d %H:%M')}\n"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
