from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bulkhead.ctl import remains
from bulkhead.model.instance import Instance
from bulkhead.settings import environment
from bulkhead.wire.client import channel, stub
from bulkhead.wire.gen.bulkhead.supervisor import v1 as supervisor
from tests.integration.shim.harness import script, write_config
from tests.integration.supervisor.spares import is_taught, spares_of
from tests.support.eventually import until

_SHIM = "bulkhead-shim"
# What a zygote has live for its likeness, and ends a moment after it.
_MODEL = f"{_SHIM}: rehearsal"
_SPARES = 2


@dataclass
class Service:
    """A supervisor of one's own, as a real process."""

    instance: Instance
    process: subprocess.Popen[bytes]

    async def launch(self, container_id: str, *, config: bool = True) -> supervisor.LaunchResponse:
        data = self.instance.container_data(container_id)
        if config and not data.exists():
            write_config(data, script("true"))
        over = channel(self.instance.supervisor_socket)
        try:
            calls = stub(supervisor.SupervisorStub, over, "supervisor")
            return await calls.launch(
                supervisor.LaunchRequest(
                    container_id=container_id,
                    run_dir=str(self.instance.container_run(container_id)),
                    data_dir=str(data),
                ),
                timeout=20,
            )
        finally:
            over.close()

    def children(self) -> list[int]:
        """The zygote, by the kernel's word."""
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in text.split()]

    def stop(self) -> int:
        """The polite end; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def start(instance: Instance) -> Service:
    """Start a supervisor, and wait until it says that it is ready, and has all of its spares."""
    service = begin(instance)
    until(lambda: _is_stocked(service))
    return service


def begin(instance: Instance) -> Service:
    """Start a supervisor, and wait until it says that it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bulkhead.supervisor"],
        env=os.environ | environment(instance, Path("/etc/bulkhead/config.toml")),
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    while b'"ready"' not in (line := process.stderr.readline()):
        assert line, "the supervisor died"
    return Service(instance, process)


def _is_stocked(service: Service) -> bool:
    """Whether its spares, as many as the settings say, are those that it keeps."""
    for zygote in service.children():
        spares = spares_of(zygote)
        return len(spares) == _SPARES and all(map(is_taught, spares))
    return False


@contextlib.contextmanager
def running(root: Path, by: Callable[[Instance], Service] = start) -> Iterator[Service]:
    service = by(Instance(run=root / "r", data=root / "d"))
    try:
        yield service
        assert service.stop() in (0, -signal.SIGKILL)
    finally:
        left = _end_all(service)
    assert not left, f"shims were left: {left}"


def _end_all(service: Service) -> list[str]:
    """Kill the supervisor and the shims that a failed test has left, who obey nobody else; their titles."""
    service.process.kill()
    service.process.wait()
    until(lambda: not any(title.startswith(_MODEL) for title in remains.processes(service.instance).values()))
    left = remains.processes(service.instance)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return [title for title in left.values() if title.startswith(_SHIM)]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("s")) as service:
        yield service


@pytest.fixture
def service(shared: Service) -> Service:
    """A supervisor for tests that leave it as it was."""
    return shared


@pytest.fixture
def own_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A supervisor for one test alone."""
    with running(tmp_path_factory.mktemp("s")) as service:
        yield service
