"""The same tests against three engines: the API over its fake manager, the whole engine, and dockerd as the control.

dockerd takes part where `BULKHEAD_TEST_DOCKERD=1` says so: it changes the machine's firewall and cgroups.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import docker
import pytest
import requests
from docker import DockerClient

from tests.support.api_description import SPEC, judge
from tests.support.engine import Engine, docker_cli, free_subnet

ROOT = Path(__file__).parents[2]
SECONDS = 60
CONTROL = "BULKHEAD_TEST_DOCKERD"


@dataclass(frozen=True)
class Target:
    """An engine and its two clients."""

    kind: str
    socket: str
    base: Path

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_HOST": self.socket, "DOCKER_CONFIG": str(self.base / "docker-config")}

    def docker(
        self, *arguments: str, input: str | bytes | None = None, seconds: float = SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """The docker CLI."""
        data = input.encode() if isinstance(input, str) else input
        done = subprocess.run(
            [docker_cli(), *arguments], env=self.environ, input=data, capture_output=True, timeout=seconds, check=False
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )

    def ok(self, *arguments: str, input: str | bytes | None = None) -> str:
        """The same, when it must succeed; its output without the last newline."""
        done = self.docker(*arguments, input=input)
        assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.rstrip("\n")

    def spawn(self, *arguments: str) -> subprocess.Popen[str]:
        """The docker CLI, running beside the test."""
        return subprocess.Popen(
            [docker_cli(), *arguments],
            env=self.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="session")
def fake_target() -> Iterator[Target]:
    base = Path(tempfile.mkdtemp(prefix="bh-compat-", dir="/tmp"))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.fake_engine", str(base)],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'services'}:{ROOT}"},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(base / "log").open("wb"),
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n", (base / "log").read_text()
        yield Target("fake", f"unix://{base}/run/docker.sock", base)
    finally:
        process.stdin.close()
        process.wait(timeout=30)
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="session")
def dockerd_target() -> Iterator[Target]:
    program = shutil.which("dockerd")
    if os.environ.get(CONTROL) != "1" or program is None:
        pytest.skip(f"dockerd is asked for the control only where {CONTROL}=1")
    base = Path(tempfile.mkdtemp(prefix="bh-dockerd-", dir="/tmp"))
    places = ["--data-root", f"{base}/data", "--exec-root", f"{base}/exec", "--pidfile", f"{base}/pid"]
    with _bridge() as bridge:
        network = [f"--bridge={bridge}", "--iptables=false", "--ip6tables=false", f"--default-address-pool={_pool()}"]
        command = [program, *places, *network, "-H", f"unix://{base}/docker.sock"]
        process = subprocess.Popen(command, stdout=(base / "log").open("wb"), stderr=subprocess.STDOUT)
        target = Target("dockerd", f"unix://{base}/docker.sock", base)
        try:
            _wait_for(target, process)
            _import_busybox(target, base)
            yield target
        finally:
            process.terminate()
            process.wait(timeout=60)
            shutil.rmtree(base, ignore_errors=True)


@contextlib.contextmanager
def _bridge() -> Iterator[str]:
    """dockerd's default network, without its firewall: containers reach each other and are reached by its proxy."""
    name, subnet = f"bhd{secrets.token_hex(4)}", ipaddress.ip_network(free_subnet())
    subprocess.check_call(["ip", "link", "add", name, "type", "bridge"])
    try:
        subprocess.check_call(["ip", "addr", "add", f"{subnet[1]}/{subnet.prefixlen}", "dev", name])
        subprocess.check_call(["ip", "link", "set", name, "up"])
        yield name
    finally:
        subprocess.check_call(["ip", "link", "del", name])


def _pool() -> str:
    """Where the networks of its users come from: eight of them."""
    return f"base={free_subnet()},size=27"


def _wait_for(target: Target, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SECONDS
    while target.docker("version").returncode != 0:
        assert process.poll() is None and time.monotonic() < deadline, (target.base / "log").read_text()[-3000:]
        time.sleep(0.2)


def _import_busybox(target: Target, base: Path) -> None:
    """An image like the one that our registry is seeded with, from the host's static busybox."""
    program = shutil.which("busybox")
    if program is None:
        pytest.skip("no busybox on this machine")
    tree = base / "busybox"
    (tree / "bin").mkdir(parents=True)
    for name in ("tmp", "root", "etc", "proc", "dev"):
        (tree / name).mkdir()
    shutil.copy(program, tree / "bin/busybox")
    for applet in subprocess.check_output([program, "--list"], text=True).split():
        with contextlib.suppress(FileExistsError):
            (tree / "bin" / applet).symlink_to("busybox")
    packed = subprocess.check_output(["tar", "-C", str(tree), "-c", "."])
    target.ok("import", "-c", 'CMD ["sh"]', "-", "busybox:latest", input=packed)


@pytest.fixture(params=["fake", "real", "dockerd"])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """The engine under test; its containers are removed afterwards."""
    yield from _emptied(request)


@pytest.fixture(params=["real", "dockerd"])
def whole_target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """The same, of those that have networks."""
    yield from _emptied(request)


def _emptied(request: pytest.FixtureRequest) -> Iterator[Target]:
    if request.param == "real":
        engine: Engine = request.getfixturevalue("engine")
        found = Target("real", f"unix://{engine.instance.docker_socket}", engine.base)
    else:
        found = request.getfixturevalue(f"{request.param}_target")
    yield found
    left = found.docker("ps", "-aq").stdout.split()
    if left:
        found.docker("rm", "-f", "-v", *left)


@pytest.fixture
def client(target: Target) -> Iterator[DockerClient]:
    """docker-py."""
    made = docker.DockerClient(base_url=target.socket, version="auto", timeout=SECONDS)
    if target.kind == "real" and SPEC.exists():
        made.api.hooks["response"].append(_judged)
    yield made
    made.close()


def _judged(answer: requests.Response, **_: object) -> None:
    """Whole JSON answers of success are as the Engine API's description says."""
    whole = "Content-Length" in answer.headers and answer.headers.get("Content-Type") == "application/json"
    if whole and answer.status_code < 300 and answer.content:
        path = urlsplit(answer.request.url).path
        judge(str(answer.request.method), unquote(str(path)), answer.status_code, answer.json())
