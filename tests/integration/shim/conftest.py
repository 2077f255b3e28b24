from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.shim.harness import FAKE, Nursery, Shim, become, connected, write_config

Launch = Callable[[dict[str, Any]], AbstractAsyncContextManager[Shim]]


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Forks shims that run plain processes."""
    zygote = Nursery(FAKE)
    yield zygote
    zygote.close()


@pytest.fixture
async def launch(nursery: Nursery, tmp_path: Path) -> AsyncIterator[Launch]:
    """Shims of the container in tmp_path, one after another."""

    @asynccontextmanager
    async def launched(config: dict[str, Any]) -> AsyncIterator[Shim]:
        run, data = tmp_path / "run", tmp_path / "data"
        write_config(data, config)
        answer = become(nursery.spare(), run, data)
        assert "error" not in answer, answer
        async with connected(run, data, answer["pid"]) as shim:
            yield shim

    async with AsyncExitStack():
        yield launched
