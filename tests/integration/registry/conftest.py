"""A registry in this process on a loopback port, and a bare HTTP client for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.registry.wire import Peer, open_peer


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    async with open_peer(tmp_path / "registry") as peer:
        yield peer
