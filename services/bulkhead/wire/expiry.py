"""The time limit of a single future, by a bare timer: `asyncio.timeout` around each wait costs ten times that."""

from __future__ import annotations

import asyncio
from typing import Any


def expire(future: asyncio.Future[Any]) -> None:
    """Called when time is up: who waits for `future`, if it is not done, gets a TimeoutError."""
    if not future.done():
        future.set_exception(TimeoutError())
