"""How long to insist with a registry, and when it is no use."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from bulkhead.content.remote_errors import RemoteRefusal, Unreachable


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to insist. Attempts are counted anew whenever bytes arrived."""

    attempts: int = 5
    attempts_in_all: int = 100
    backoff: float = 0.25
    longest_backoff: float = 30.0
    connect: float = 15.0
    idle: float = 60.0


class Tries:
    """Counts failures in a row and sleeps between them."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
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
        await asyncio.sleep(self._pause(error))

    def _pause(self, error: RemoteRefusal | Unreachable) -> float:
        patience = self._patience
        told = error.retry_after if isinstance(error, RemoteRefusal) else None
        if told is not None:
            return min(told, patience.longest_backoff) + random.uniform(0, patience.backoff)
        return random.uniform(0.5, 1.0) * min(patience.backoff * 2.0**self._in_a_row, patience.longest_backoff)
