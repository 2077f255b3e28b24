"""The storages that the exams are set for: the same metadata, over each store of objects."""

from __future__ import annotations

import secrets
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest
from moto.server import ThreadedMotoServer

from bulkhead.content.blocking import Blocking
from bulkhead.registry.adapters.file_objects import FileObjects
from bulkhead.registry.adapters.s3_objects import Bucket, S3Objects
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


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The URL of an S3 API on the loopback interface."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["files", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Blocking], Objects]:
    """A way to the one store of a test."""
    if request.param == "files":
        return lambda blocking: FileObjects(tmp_path / "root", blocking)
    bucket = make_bucket(request.getfixturevalue("s3"))
    return lambda blocking: S3Objects(bucket, blocking)


def make_bucket(endpoint: str) -> Bucket:
    """A bucket that nobody else has; an object outside the prefix that must stay out of everything."""
    name = f"test-{secrets.token_hex(8)}"
    for path, body in ((name, b""), (f"{name}/elsewhere/objects/x", b"not ours")):
        request = urllib.request.Request(f"{endpoint}/{path}", data=body, method="PUT")
        urllib.request.urlopen(request, timeout=30).close()
    return Bucket(name=name, prefix="reg/", endpoint=endpoint, access_key="k", secret_key="s")


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
