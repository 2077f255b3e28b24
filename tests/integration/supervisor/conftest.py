from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bulkhead.model.instance import Instance
from bulkhead.settings import environment
from bulkhead.wire.client import channel, stub
from bulkhead.wire.gen.bulkhead.supervisor import v1 as supervisor
from tests.integration.shim.harness import gone, script, write_config


@dataclass
class Service:
    """A supervisor of one's own, as a real process."""

    instance: Instance
    process: asyncio.subprocess.Process

    async def launch(self, container_id: str, *, config: bool = True) -> supervisor.LaunchResponse:
        data = self.instance.container_data(container_id)
        if config and not data.exists():
            write_config(data, script("true"))
        over = channel(self.instance.supervisor_socket)
        try:
            calls = stub(supervisor.SupervisorStub, over, "supervisor")
            return await calls.launch(
                supervisor.LaunchRequest(
                    container_id=container_id,
                    run_dir=str(self.instance.container_run(container_id)),
                    data_dir=str(data),
                ),
                timeout=20,
            )
        finally:
            over.close()

    def children(self) -> list[int]:
        """The zygote, by the kernel's word."""
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in text.split()]


async def start(instance: Instance) -> Service:
    """Start a supervisor, and wait until it is ready (then its pid file has the pid)."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bulkhead.supervisor",
        env=os.environ | environment(instance, Path("/etc/bulkhead/config.toml")),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    while b'"ready"' not in (line := await asyncio.wait_for(process.stderr.readline(), 20)):
        assert line, "the supervisor died"
    return Service(instance, process)


@pytest.fixture
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    root = tmp_path_factory.mktemp("s")
    instance = Instance(run=root / "r", data=root / "d")
    yield instance
    for socket in (instance.run / "containers").glob("*/shim.sock"):
        raise AssertionError(f"a shim was left at {socket}")


@pytest.fixture
async def service(instance: Instance) -> AsyncIterator[Service]:
    running = await start(instance)
    yield running
    with contextlib.suppress(ProcessLookupError):
        running.process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(running.process.wait(), 10)
    await gone(running.process.pid)
