"""What the supervisor keeps for shims."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

from bulkhead.supervisor.keeping import Keeping


async def test_a_shim_is_followed_once_there_is_a_descriptor_for_it(tmp_path: Path) -> None:
    """Its supervisor does not end of having none."""
    place = tmp_path / "stdio.sock"
    followed = asyncio.Event()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    keeping = Keeping(tmp_path / "containers")
    async with await asyncio.start_unix_server(lambda *_: followed.set(), place), keeping.running():
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            keeping.follow(place)
            await asyncio.sleep(0)
            assert not followed.is_set()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await asyncio.wait_for(followed.wait(), 30)
