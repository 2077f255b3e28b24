"""The real API daemon over the fake manager, in one process: `python -m tests.support.fake_engine <directory>`.

Prints `ready` when the socket answers; ends at end of input.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

from bulkhead import telemetry
from bulkhead.api.app import serve
from bulkhead.model.instance import Instance
from bulkhead.settings import Settings
from tests.support.fake_manager import FakeManager


def fake_settings(base: Path, **api: Any) -> Settings:
    """With these keys in the table [api]."""
    instance = Instance(run=base / "run", data=base / "data")
    for directory in (instance.run, instance.data):
        directory.mkdir(parents=True, exist_ok=True)
    return Settings(instance=instance, path=base / "config.toml", tables={"api": api})


@asynccontextmanager
async def fake_engine(base: Path, **api: Any) -> AsyncIterator[FakeManager]:
    """The API daemon, told `api`, and its fake manager, serving below `base` while entered."""
    settings = fake_settings(base, **api)
    manager = FakeManager(settings.instance)
    async with manager.serving(), serve(settings):
        yield manager
        await manager.close()


async def _main(base: Path) -> None:
    async with fake_engine(base):
        print("ready", flush=True)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    telemetry.configure("fake-engine")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(Path(sys.argv[1])))
