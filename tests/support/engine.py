"""A private installation of real service processes, beside any other on this machine."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bulkhead import settings as settings_module
from bulkhead.ctl import commands, purging, remains
from bulkhead.ctl.daemons import Daemons
from bulkhead.ctl.engine_client import Answer, call
from bulkhead.errors import Unavailable
from bulkhead.linux.netlink import Netlink
from bulkhead.linux.nftables import Nftables
from bulkhead.model.instance import SERVICES, Instance
from bulkhead.settings import Settings
from tests.support.drawn import Drawn
from tests.support.ports import free_port
from tests.support.tracebacks import Journals

COMMAND_SECONDS = 60
# A machine may be so busy with other tests that four interpreters take their time.
commands.READY_SECONDS = 90.0


class Engine:
    """One installation under test: its directories, its processes, its clients."""

    def __init__(self, base: Path, environ: dict[str, str] | None = None) -> None:
        self.base = base
        self.settings: Settings = settings_module.load({**_private_names(base), **(environ or {})})
        self.instance: Instance = self.settings.instance
        self.daemons = Daemons(self.settings)
        self.journals = Journals(self.instance)
        self._launched: list[subprocess.Popen[bytes]] = []

    # --- processes

    def start(self, *services: str) -> None:
        """Start those of `services` (all when none is named) that do not run; returns when they are ready."""
        self._launched += commands.start(self.settings, services or SERVICES).values()

    def kill(self, *services: str) -> None:
        """SIGKILL each (all when none is named) and wait until it is gone."""
        for service in services or SERVICES:
            self.daemons.kill(service)
        self._reap()

    def stop(self, *services: str) -> dict[str, str]:
        """SIGTERM each (all when none is named); what became of it, as `make down` tells."""
        outcome = self.daemons.stop(services or SERVICES)
        self._reap()
        return outcome

    def restart(self, *services: str) -> None:
        """Stop each in good order and start it again."""
        self.stop(*services)
        self.start(*services)

    def pid(self, service: str) -> int | None:
        return self.daemons.pid(service)

    def seed(self) -> None:
        """Fill the registry with hello-world and busybox."""
        lines: list[str] = []
        assert commands.seed(self.settings, lines.append) == 0, lines

    def ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The operator's command, as a process of its own."""
        command = [sys.executable, "-m", "bulkhead.ctl", *arguments]
        return subprocess.run(
            command, env=self.environ, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )

    # --- clients

    @property
    def environ(self) -> dict[str, str]:
        """For a child process: this installation, its socket, and no settings of the user's own docker CLI."""
        names = settings_module.environment(self.instance, self.settings.path)
        host = f"unix://{self.instance.docker_socket}"
        return {**os.environ, **names, "DOCKER_HOST": host, "DOCKER_CONFIG": str(self.base / "docker")}

    def docker(
        self, *arguments: str, input: str | None = None, seconds: float = COMMAND_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """The docker CLI against this engine; skips the test where there is no docker CLI."""
        command = [docker_cli(), *arguments]
        return subprocess.run(
            command, env=self.environ, input=input, capture_output=True, text=True, timeout=seconds, check=False
        )

    def docker_ok(self, *arguments: str, input: str | None = None, seconds: float = COMMAND_SECONDS) -> str:
        """The same; its output without the last newline, an assertion when it failed."""
        done = self.docker(*arguments, input=input, seconds=seconds)
        assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.rstrip("\n")

    def api(self, method: str, path: str, body: Any = None, *, seconds: float = COMMAND_SECONDS) -> Answer:
        """One Engine API call. Raises Unavailable when the API daemon does not answer."""
        return call(self.instance.docker_socket, method, path, body, seconds=seconds)

    def put(self, path: str, body: bytes) -> Answer:
        """PUT of bytes as they are."""
        connection = http.client.HTTPConnection("localhost", timeout=COMMAND_SECONDS)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(COMMAND_SECONDS)
            connection.sock.connect(str(self.instance.docker_socket))
            connection.request("PUT", path, body, {"Content-Type": "application/x-tar"})
            response = connection.getresponse()
            return Answer(response.status, response.read())
        finally:
            connection.close()

    def pulled(self, *names: str) -> None:
        """Make sure that the images are in the engine's own store."""
        for name in names:
            if self.api("GET", f"/images/{name}/json").status != 200:
                answer = self.api("POST", f"/images/create?fromImage={name}&tag=latest")
                assert answer.status == 200, answer.body
                assert b'"errorDetail"' not in answer.body, answer.body

    # --- the end

    def remove_containers(self) -> None:
        """Remove what a test left, so that the next one starts from nothing."""
        with contextlib.suppress(Unavailable):
            for container in self.api("GET", "/containers/json?all=1").json or []:
                self.api("DELETE", f"/containers/{container['Id']}?force=1&v=1")

    def purge(self) -> list[str]:
        """Remove the installation; what was removed."""
        removed = list(purging.purge(self.settings))
        self._reap()
        return removed

    def _reap(self) -> None:
        # They are children of this process: one that died stays a zombie until it is waited for.
        self._launched = [process for process in self._launched if process.poll() is None]


@contextlib.contextmanager
def private_engine(**environ: str) -> Iterator[Engine]:
    """An engine of its own, not started; at the end everything of it is removed, or the test fails."""
    if os.geteuid() != 0:
        pytest.skip("makes containers: needs root")
    base = Path(tempfile.mkdtemp(prefix="bh-", dir="/tmp"))
    engine = Engine(base, environ)
    with _undertaker(engine) as undertaker:
        try:
            yield engine
        finally:
            engine.stop()  # in good order: what they say at their end is read too
            traces = engine.journals.tracebacks()
            report = engine.purge()
            left = nothing_left(engine.instance)
            shutil.rmtree(base, ignore_errors=True)
            undertaker.communicate(b"purged\n")
    assert not left, f"purge left {left}: {report}"
    assert not traces, "errors that nobody expected:\n" + "\n".join(traces)


@contextlib.contextmanager
def _undertaker(engine: Engine) -> Iterator[subprocess.Popen[bytes]]:
    """A process that purges the engine if this one is killed or fails to: it waits for a word, or for the end of its
    input."""
    purge = f'{sys.executable} -m bulkhead.ctl purge; rm -rf "{engine.base}"'
    command = ["sh", "-c", f"read word || {{ {purge}; }} >/dev/null 2>&1"]
    with subprocess.Popen(command, env=engine.environ, stdin=subprocess.PIPE, start_new_session=True) as process:
        yield process


def nothing_left(instance: Instance) -> list[str]:
    """What of an installation is still on the machine after its purge."""
    with Netlink() as kernel:
        links = [link.name for link in kernel.links() if link.name == instance.bridge]
    places = [str(path) for path in (instance.run, instance.data) if path.exists()]
    processes = [f"{pid} {title}" for pid, title in remains.processes(instance).items()]
    return [*places, *map(str, remains.cgroup_parents(instance)), *links, *_tables(instance), *processes]


def _tables(instance: Instance) -> list[str]:
    """Tables of any family: one that `purge` has not been told of must not hide from this test."""
    rules = Nftables()
    try:
        listed = json.loads(rules.run("list tables"))["nftables"]
    finally:
        rules.close()
    named = [each["table"] for each in listed if "table" in each]
    return [f"nft table {each['family']} {each['name']}" for each in named if each["name"] == instance.nft_table]


def docker_cli() -> str:
    """Where the docker CLI is; without it the test is skipped, or fails where CI says it must not be."""
    path = shutil.which("docker")
    if path is None:
        if "docker" in os.environ.get("BULKHEAD_TEST_REQUIRE", "").split(","):
            pytest.fail("no docker CLI, and this run must not skip it")
        pytest.skip("no docker CLI on this machine")
    return path


def _private_names(base: Path) -> dict[str, str]:
    return {
        "BULKHEAD_RUN": str(base / "run"),
        "BULKHEAD_DATA": str(base / "data"),
        "BULKHEAD_REGISTRY": f"127.0.0.1:{free_port()}",
        "BULKHEAD_BRIDGE": f"bh{secrets.token_hex(4)}",
        "BULKHEAD_SUBNET": free_subnet(),
    }


def free_subnet() -> str:
    """A /24 that no route of this machine overlaps, and that nobody else has drawn who still runs."""
    with Netlink() as kernel:
        taken = [route.destination for route in kernel.routes() if route.destination.prefixlen > 0]
    while True:
        number = secrets.randbelow(_SUBNETS)
        candidate = ipaddress.IPv4Network((_FIRST_SUBNET + (number << 8), 24))
        if not any(candidate.overlaps(network) for network in taken) and _DRAWN.take(number):
            return str(candidate)


# 10.200.0.0 and up.
_FIRST_SUBNET, _SUBNETS = 0x0AC80000, 0x1E00
_DRAWN = Drawn(Path("/tmp/bulkhead-test-subnets"))
