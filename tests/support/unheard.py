"""Errors of tasks that nobody asked for."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def none_unheard() -> AsyncIterator[None]:
    """What is done inside leaves no task whose error nobody heard ("Task exception was never retrieved")."""
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    yield
    for _ in range(10):
        await asyncio.sleep(0)
        gc.collect()
    assert told == []
