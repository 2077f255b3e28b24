"""The real API daemon over the fake manager, in the test's own loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.support import raw_http
from tests.support.fake_engine import fake_engine
from tests.support.fake_manager import FakeContainer, FakeManager
from tests.support.raw_http import Reply


def pytest_configure(config: pytest.Config) -> None:
    # Its successor, a hook, would change the loop of every other test of the run.
    config.addinivalue_line("filterwarnings", 'ignore:Overriding the "event_loop_policy" fixture')


@dataclass
class Fake:
    """The engine under test."""

    manager: FakeManager

    @property
    def socket(self) -> Path:
        return self.manager.instance.docker_socket

    async def call(self, method: str, target: str, body: Any = None, **headers: str) -> Reply:
        return await raw_http.call(self.socket, method, target, body, **headers)

    async def create(self, *command: str, name: str = "", **config: Any) -> FakeContainer:
        body = {"Image": "busybox", "Cmd": list(command), **config}
        reply = await self.call("POST", f"/containers/create?name={name}", body)
        assert reply.status == 201, reply.body
        return self.manager.containers[reply.json["Id"]]

    async def run(self, *command: str, **config: Any) -> FakeContainer:
        container = await self.create(*command, **config)
        reply = await self.call("POST", f"/containers/{container.id}/start")
        assert reply.status == 204, reply.body
        return container


@pytest.fixture(scope="session")
def event_loop_policy() -> uvloop.EventLoopPolicy:
    """The loop of the daemon: its transports differ from asyncio's where it matters here."""
    return uvloop.EventLoopPolicy()


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[Fake]:
    async with fake_engine(tmp_path) as manager:
        yield Fake(manager)
