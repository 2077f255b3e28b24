"""The shim: launch, a container's way through it, calls, memory, log and attach throughput.

python -m tests.bench.shim_bench [containers] [--json]
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import tempfile
import time
from pathlib import Path

import uvloop

from bulkhead.linux.cgroups import Cgroup
from bulkhead.shim.identity import Identity
from bulkhead.supervisor.keeping import Keeping
from bulkhead.supervisor.launches import Launches
from bulkhead.supervisor.spares import SparePool, zygote_command
from bulkhead.wire.gen.bulkhead.shim import v1 as wire
from bulkhead.wire.ttrpc_client import ShimClient, TtrpcClient
from tests.bench import sitting
from tests.bench.sitting import Samples, apart
from tests.bench.standalone import run
from tests.integration.shim import bundles

MEGABYTE = 1_000_000
LINES = 16 * MEGABYTE
LOG_BYTES = 16 * LINES
Figures = dict[str, list[float]]


class Bench:
    """Containers of one root file system, each with its own shim."""

    def __init__(self, base: Path, launches: Launches) -> None:
        self.base = base
        self.launches = launches
        self.root = bundles.make_root(base / "root")
        (self.root / "lines").write_bytes((b"x" * 79 + b"\n") * (LINES // 80))
        self.figures: Figures = {}
        self.made = 0
        self._shims: dict[ShimClient, int] = {}

    def note(self, name: str, begun: float) -> float:
        now = time.perf_counter()
        self.figures.setdefault(name, []).append((now - begun) * 1e3)
        return time.perf_counter()

    async def start(self, *arguments: str, driver: str = "json-file") -> tuple[ShimClient, Path, int]:
        """A running container: its client, its run directory, its shim's pid."""
        self.made += 1
        place = self.base / str(self.made)
        for name in ("upper", "work"):
            (place / name).mkdir(parents=True)
        config = bundles.config(self.root, f"/bh-bench-{os.getpid()}/{self.made}", bundles.process(*arguments))
        bundles.write(place / "data", config)
        begun = time.perf_counter()
        identity = Identity(f"{self.made:064x}", str(place / "run"), str(place / "data"))
        shim = await self.launches.launch(identity)
        begun = self.note("launch", begun)
        client = TtrpcClient(place / "run/shim.sock")
        calls = ShimClient(client)
        self._shims[calls] = shim.pid
        await client.connect()
        begun = self.note("connect", begun)
        rootfs = wire.OverlayRootfs(
            lower=[str(self.root)], upper=str(place / "upper"), work=str(place / "work"), volatile=True
        )
        log = wire.LogOptions(driver=driver, path=str(place / "data/log.json"), max_size=64 * MEGABYTE, max_file=3)
        assert (await calls.create(wire.CreateRequest(rootfs=rootfs, log=log))).failure is None
        begun = self.note("create", begun)
        assert (await calls.start()).failure is None
        self.note("start", begun)
        return calls, place / "run", shim.pid

    async def stop(self, calls: ShimClient) -> None:
        begun = time.perf_counter()
        await calls.kill(signal.SIGKILL)
        await calls.wait()
        begun = self.note("kill to wait", begun)
        await self.shutdown(calls)
        self.note("shutdown", begun)
        await calls.client.close()

    async def shutdown(self, calls: ShimClient) -> None:
        await calls.shutdown()
        del self._shims[calls]

    def close(self) -> None:
        """End who is left when the bench is broken off."""
        for pid in self._shims.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def lives(bench: Bench, count: int) -> None:
    """Containers one after another, kept; then calls, execs, memory."""
    running = [await bench.start("sleep", "600") for _ in range(count)]
    calls = running[0][0]
    for _ in range(500):
        begun = time.perf_counter()
        await calls.state()
        bench.note("State call", begun)
    for number in range(30):
        begun = time.perf_counter()
        process = json.dumps(bundles.process("true")).encode()
        await calls.exec_create(wire.ExecCreateRequest(exec_id=f"e{number}", process=process))
        await calls.exec_start(f"e{number}")
        await calls.wait(f"e{number}")
        bench.note("exec true", begun)
    shares = [memory(pid) for _, _, pid in running]
    for name in ("Pss", "Private_Dirty"):
        bench.figures[f"{name} of each of {count} [KiB]"] = [float(share[name]) for share in shares]
    for calls, _, _ in running:
        await bench.stop(calls)


async def throughput(bench: Bench, name: str, *, driver: str, attach: bool) -> None:
    """One container writes lines as fast as it is read."""
    text = f"cat{' /lines' * (LOG_BYTES // LINES)}"
    calls, run, _ = await bench.start("sh", "-c", f"sleep 0.2; exec {text}", driver=driver)
    begun = time.perf_counter()
    received = await drain(run) if attach else 0
    await calls.wait()
    seconds = time.perf_counter() - begun - 0.2
    assert not attach or received >= LOG_BYTES
    bench.figures.setdefault(f"{name} [MB/s]", []).append(LOG_BYTES / MEGABYTE / seconds)
    await bench.shutdown(calls)
    await calls.client.close()


async def drain(run: Path) -> int:
    """Attach and read everything; how much it was."""
    reader, writer = await asyncio.open_unix_connection(str(run / "stdio.sock"), limit=1 << 20)
    writer.write(b'{"op":"attach","stdout":true}\n')
    received = -len(await reader.readline())
    while piece := await reader.read(1 << 20):
        received += len(piece)
    writer.close()
    return received


def memory(pid: int) -> dict[str, int]:
    """KiB by smaps_rollup."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {name: int(size) for name, size in re.findall(r"^(\w+): +(\d+) kB", text, re.MULTILINE)}


async def bench(count: int) -> Figures:
    """All of it, with so many containers."""
    with tempfile.TemporaryDirectory(prefix="bh-bench-") as directory:
        pool = SparePool(2, zygote_command(Path(directory) / "cache"))
        async with pool.running():
            made = Bench(Path(directory), Launches(pool, Keeping(Path(directory))))
            with contextlib.closing(made):
                await lives(made, count)
                for _ in range(3):
                    await throughput(made, "log", driver="json-file", attach=False)
                    await throughput(made, "attach, no log", driver="none", attach=True)
                    await throughput(made, "attach and log", driver="json-file", attach=True)
    return made.figures


def measure(count: int) -> Samples:
    """Milliseconds where the name says nothing else."""
    try:
        figures = uvloop.run(bench(count))
    finally:
        group = Cgroup(f"/bh-bench-{os.getpid()}")
        group.kill_all()
        group.remove()
    return {f"shim {name}" + ("" if "[" in name else " [ms]"): {"bulkhead": each} for name, each in figures.items()}


BENCHES = (sitting.Bench(name="shim", about="a shim's calls, memory and throughput", run=apart("shim_bench", 30, 10)),)

if __name__ == "__main__":
    run(measure, __doc__, 20)
