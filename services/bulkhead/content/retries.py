"""How long to insist with a registry, and when it is no use."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from bulkhead.content.remote_errors import RemoteRefusal, Unreachable

Waiting = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to insist. Attempts are counted anew whenever bytes arrived."""

    attempts: int = 5
    attempts_in_all: int = 100
    backoff: float = 0.25
    longest_backoff: float = 30.0
    longest_told: float = 300.0
    """A registry that says Retry-After is waited for so long; one that wants longer is told to the user."""
    connect: float = 15.0
    idle: float = 60.0


class Tries:
    """Counts failures in a row and sleeps between them."""

    def __init__(self, patience: Patience, waiting: Waiting = lambda _: None) -> None:
        """`waiting(seconds left)` hears of each second of a pause."""
        self._patience = patience
        self._waiting = waiting
        self._in_a_row = 0
        self._in_all = 0

    async def after(self, error: RemoteRefusal | Unreachable, *, progressed: bool) -> None:
        """Wait for the next try, or raise `error` when it is no use."""
        if isinstance(error, RemoteRefusal) and not error.temporary:
            raise error
        self._in_a_row = 0 if progressed else self._in_a_row + 1
        self._in_all += 1
        if self._in_a_row >= self._patience.attempts or self._in_all >= self._patience.attempts_in_all:
            raise error
        await self._sleep(self._pause(error))

    async def _sleep(self, seconds: float) -> None:
        while seconds > 0:
            self._waiting(math.ceil(seconds))
            await asyncio.sleep(min(seconds, 1.0))
            seconds -= 1.0

    def _pause(self, error: RemoteRefusal | Unreachable) -> float:
        patience = self._patience
        told = error.retry_after if isinstance(error, RemoteRefusal) else None
        if told is not None:
            if told > patience.longest_told:
                raise error
            return told + random.uniform(0, patience.backoff)
        return random.uniform(0.5, 1.0) * min(patience.backoff * 2.0**self._in_a_row, patience.longest_backoff)
