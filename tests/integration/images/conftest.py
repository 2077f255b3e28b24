"""A real registry process and the image part of a manager, with its records, store and socket."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bulkhead.content import client
from bulkhead.manager.adapters.database import Database
from bulkhead.manager.images.app import ImageService
from bulkhead.manager.images.config import ImagesConfig
from bulkhead.model.instance import Instance
from bulkhead.wire.client import channel, stub
from bulkhead.wire.gen.bulkhead.manager.v1 import ImagesStub, Progress, PullRequest
from bulkhead.wire.server import serve
from tests.support.ports import free_port

SOURCE_ROOT = Path(__file__).resolve().parents[3] / "services"


@dataclass(slots=True)
class Registry:
    """The registry service as a process of its own."""

    root: Path
    port: int = 0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self.port = self.port or free_port()
        environ = {**os.environ, "PYTHONPATH": str(SOURCE_ROOT), "BULKHEAD_RUN": str(self.root / "run")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bulkhead.registry", "--listen", self.host, "--root", str(self.root / "data")],
            env={**environ, "BULKHEAD_DATA": str(self.root / "state")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 90
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.02)
        raise AssertionError("the registry did not start")

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


@dataclass(slots=True)
class Events:
    """What was published."""

    seen: list[tuple[str, str, str, Mapping[str, str]]] = field(default_factory=list)

    async def publish(self, kind: str, action: str, actor: str, attributes: Mapping[str, str]) -> None:
        self.seen.append((kind, action, actor, attributes))

    @property
    def actions(self) -> list[str]:
        return [action for _, action, _, _ in self.seen]


class Users(dict[str, list[tuple[str, bool]]]):
    """Containers by their image's id, each with whether it runs."""

    def running_from(self, image_id: str) -> list[str]:
        return [container for container, runs in self.get(image_id, ()) if runs]

    def idle_from(self, image_id: str) -> list[str]:
        return [container for container, runs in self.get(image_id, ()) if not runs]

    def ids(self) -> list[str]:
        return [container for users in self.values() for container, _ in users]


@dataclass(slots=True)
class Engine:
    """The image part of one manager."""

    instance: Instance
    images: ImageService
    stub: ImagesStub
    events: Events
    users: Users

    async def pull(self, reference: str, **more: object) -> list[Progress]:
        """All lines of a pull; raises the error that ended it."""
        return await collect(self.stub.pull(PullRequest(reference=reference, **more)))  # type: ignore[arg-type]

    @property
    def blobs(self) -> set[str]:
        return {path.name for path in (self.instance.data / "content" / "blobs" / "sha256").iterdir()}

    @property
    def layers(self) -> set[str]:
        return {path.name for path in (self.instance.data / "snapshots" / "layers").iterdir()}


Open = Callable[..., contextlib.AbstractAsyncContextManager[Engine]]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries as many as ever, but in quick succession."""
    monkeypatch.setattr(client, "Patience", functools.partial(client.Patience, backoff=0.01))


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    found = Registry(tmp_path_factory.mktemp("registry"))
    found.start()
    yield found
    found.kill()


@pytest.fixture
def open_engine(tmp_path: Path, registry: Registry) -> Open:
    """Opens the same data directory each time, as a restarted manager does."""
    run = Path("/tmp") / f"bh-images-{secrets.token_hex(4)}"

    @contextlib.asynccontextmanager
    async def opened(
        mirrors: Sequence[str] | None = None,
        data: Path | None = None,
        containers: Sequence[str] = (),
        users: dict[str, list[tuple[str, bool]]] | None = None,
    ) -> AsyncIterator[Engine]:
        instance = Instance(run=run, data=data or tmp_path / "data", registry=registry.host)
        run.mkdir(mode=0o700, exist_ok=True)
        events, found = Events(), Users(users or {})
        config = ImagesConfig(mirrors=None if mirrors is None else tuple(mirrors))
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(run.rmdir)
            database = await stack.enter_async_context(Database.open(instance.data / "bulkhead.db"))
            service = ImageService(database, instance, config, events.publish, found)
            images = await stack.enter_async_context(service)
            await images.recover(containers)
            await stack.enter_async_context(serve([images.servicer, images.upkeep], instance.manager_socket))
            over = channel(instance.manager_socket)
            stack.callback(over.close)
            yield Engine(instance, images, stub(ImagesStub, over, "manager"), events, found)

    return opened


@pytest.fixture
async def engine(open_engine: Open) -> AsyncIterator[Engine]:
    async with open_engine() as opened:
        yield opened


async def collect(lines: AsyncIterator[Progress]) -> list[Progress]:
    return [line async for line in lines]


def statuses(lines: Sequence[Progress]) -> list[str]:
    return [line.status for line in lines if not line.total]
