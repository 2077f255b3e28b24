"""Shims on the engine's own runtime core, for tests: real namespaces, real cgroups."""

from __future__ import annotations

import os
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bulkhead.linux.cgroups import Cgroup
from bulkhead.wire.gen.bulkhead.shim import v1 as wire
from tests.integration.shim import bundles
from tests.integration.shim.harness import Nursery, Shim, become, connected, write_config

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces and cgroups"),
    pytest.mark.skipif(not os.path.exists("/bin/busybox"), reason="needs a static busybox"),  # noqa: PTH110
]

Launch = Callable[..., AbstractAsyncContextManager[Shim]]


@pytest.fixture(scope="module")
def real_nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with _nursery("bulkhead.supervisor.zygote", tmp_path_factory) as nursery:
        yield nursery


@pytest.fixture(scope="module")
def patient_nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Of shims that keep what they have made ahead."""
    with _nursery("tests.integration.shim.patient_zygote", tmp_path_factory) as nursery:
        yield nursery


@contextmanager
def _nursery(module: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery((sys.executable, "-m", module, str(tmp_path_factory.mktemp("cache"))))
    yield nursery
    nursery.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.make_root(tmp_path_factory.mktemp("image") / "root")


@pytest.fixture
async def launch(real_nursery: Nursery, root: Path, tmp_path: Path) -> AsyncIterator[Launch]:
    """A shim whose container runs `process` on an overlay of `root`; the cgroup must be gone at the end."""
    cgroup = f"/bh-h3-{uuid.uuid4().hex[:8]}"

    @asynccontextmanager
    async def launched(
        process: dict[str, Any], *, spare: socket.socket | None = None, **options: Any
    ) -> AsyncIterator[Shim]:
        run, data = tmp_path / "run", tmp_path / "data"
        write_config(data, bundles.config(root, cgroup, process, **options))
        answer = become(spare or real_nursery.spare(), run, data)
        assert "error" not in answer, answer
        async with connected(run, data, answer["pid"]) as shim:
            yield shim
        assert not Cgroup(cgroup).exists()

    yield launched


def overlay(root: Path, tmp_path: Path) -> wire.OverlayRootfs:
    for name in ("upper", "work"):
        (tmp_path / name).mkdir(exist_ok=True)
    return wire.OverlayRootfs(
        lower=[str(root)], upper=str(tmp_path / "upper"), work=str(tmp_path / "work"), volatile=True
    )


@pytest.fixture
async def shim(launch: Launch, root: Path, tmp_path: Path) -> AsyncIterator[Shim]:
    """Of a container that sleeps."""
    async with launch(bundles.process("sleep", "60")) as shim:
        await begin(shim, root, tmp_path)
        yield shim


async def begin(shim: Shim, root: Path, tmp_path: Path) -> None:
    """Have its container run."""
    await shim.create(rootfs=overlay(root, tmp_path))
    await shim.client.start()
