"""The storages that the exams are set for: the same metadata, over each store of objects."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest

from bulkhead.content.blocking import Blocking
from bulkhead.registry.adapters.file_objects import FileObjects
from bulkhead.registry.adapters.storage import DurableStorage
from bulkhead.registry.collection import Policy
from bulkhead.registry.ports import Objects

DEFAULT = Policy()


@dataclass
class Clock:
    """A clock that only goes when it is told to."""

    now: float = field(default_factory=time.time)

    def __call__(self) -> float:
        return self.now


class Make(Protocol):
    """A way to the one storage of a test; what it made before must be closed first."""

    def __call__(self, policy: Policy = ..., clock: Callable[[], float] = ...) -> DurableStorage: ...


@pytest.fixture(params=["files"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Blocking], Objects]:
    """A way to the one store of a test."""
    return lambda blocking: FileObjects(tmp_path / "root", blocking)


@pytest.fixture
def make(objects: Callable[[Blocking], Objects], tmp_path: Path) -> Make:
    def make(policy: Policy = DEFAULT, clock: Callable[[], float] = time.time) -> DurableStorage:
        blocking = Blocking(4)
        return DurableStorage(tmp_path / "root", objects(blocking), blocking, policy, clock)

    return make


@asynccontextmanager
async def opened(storage: DurableStorage) -> AsyncIterator[DurableStorage]:
    await storage.open()
    try:
        yield storage
    finally:
        await storage.close()
