"""A Compose project on an engine under test, and a client that reads through one of its published ports."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.images import CACHE

# Version 2 as the CLI's plugin or alone (`go build github.com/docker/compose/v2/cmd` makes it), and version 1.
VERSION_2 = (["docker", "compose"], [str(CACHE / "docker-compose-v2")])
VERSION_1 = (["docker-compose"],)
VERSIONS = {"v1": VERSION_1, "v2": VERSION_2, "any": (*VERSION_2, *VERSION_1)}
SECONDS = 60.0


class Project:
    """The project `shop`, by one version of Compose."""

    def __init__(self, host: str, version: str, directory: Path, file: str) -> None:
        self._place = directory / "docker-compose.yml"
        self._place.write_text(file)
        self._command = [*_program(version), "-p", "shop", "-f", str(self._place)]
        self._environ = {**os.environ, "DOCKER_HOST": host, "COMPOSE_IGNORE_ORPHANS": "1"}

    def compose(self, *arguments: str, seconds: float = 120) -> str:
        """What it printed; an assertion when it failed."""
        done = self.tried(*arguments, seconds=seconds)
        assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def tried(self, *arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *arguments],
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def container(self, service: str) -> str:
        return self.compose("ps", "-q", service)

    def port(self, service: str, inside: int) -> int:
        return int(self.compose("port", service, str(inside)).rpartition(":")[2])


def _program(version: str) -> list[str]:
    for program in VERSIONS[version]:
        if shutil.which(program[0]):
            done = subprocess.run([*program, "version"], capture_output=True, check=False)
            if done.returncode == 0:
                return program
    pytest.skip(f"no Compose {version} on this machine (Debian: apt install docker-compose)")


@contextlib.contextmanager
def reading(port: int) -> Iterator[list[str]]:
    """A client that reads through a published port without pause; what came back, one after another."""
    answers: list[str] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            try:
                client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
                client.request("GET", "/")
                reply = client.getresponse()
                answers.append(f"{reply.read().decode()}{'' if reply.status == 200 else reply.status}")
                client.close()
            except OSError as error:
                answers.append(repr(error))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield answers
    finally:
        ended.set()
        thread.join()
