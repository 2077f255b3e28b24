"""A manager on the real supervisor, shims, registry and network; no API daemon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support import leaks
from tests.support.engine import Engine, private_engine
from tests.support.manager_client import ManagerClient, manager_client

SERVICES = ("registry", "supervisor", "manager")


@pytest.fixture(scope="module")
def module_engine() -> Iterator[Engine]:
    """Three services with busybox pulled, for the tests of one module."""
    with private_engine() as engine:
        engine.start(*SERVICES)
        engine.seed()
        asyncio.run(_pull(engine))
        yield engine


@pytest.fixture
def watched_engine(module_engine: Engine) -> Iterator[Engine]:
    """All services up; after the test nothing of its containers may be left."""
    module_engine.start(*SERVICES)
    before = leaks.facts(module_engine.instance)
    yield module_engine
    left = leaks.left_after(module_engine.instance, before)
    assert not left, "left behind:\n" + "\n".join(left)


@pytest.fixture
async def manager(watched_engine: Engine) -> AsyncIterator[ManagerClient]:
    """A client of the manager, whose containers are removed after the test."""
    async with manager_client(watched_engine.instance.manager_socket) as client:
        yield client
        await asyncio.to_thread(watched_engine.start, *SERVICES)
        await client.remove_all()


async def _pull(engine: Engine) -> None:
    async with manager_client(engine.instance.manager_socket) as client:
        await client.pull("busybox")
