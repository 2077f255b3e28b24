"""All services are told to stop at once, with clients at work: what was asked is answered, streams end, no log has a
trace (the fixture looks), and what runs goes on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.support.engine import Engine, docker_cli
from tests.support.eventually import until

pytestmark = [pytest.mark.root]
SECONDS = 30
DEAF = "trap '' TERM; echo deaf; while :; do sleep 0.1; done"
STREAMS = (("events",), ("logs", "-f", "deaf"), ("attach", "deaf"), ("exec", "deaf", "sleep", "60"))


@contextmanager
def client(engine: Engine, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [docker_cli(), *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=engine.environ, stdout=pipe, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def under_way(engine: Engine, what: str) -> bool:
    rows = engine.api("GET", "/debug/ops").json["Operations"]
    return any(what in row["Operation"] for row in rows)


def test_everybody_gets_an_end(fresh_engine: Engine) -> None:
    fresh_engine.docker_ok("run", "-d", "--name", "deaf", "busybox", "sh", "-c", DEAF)
    fresh_engine.docker_ok("run", "-d", "--name", "other", "busybox", "sleep", "600")
    until(lambda: "deaf" in fresh_engine.docker_ok("logs", "deaf"))
    with ExitStack() as clients:
        streams = [clients.enter_context(client(fresh_engine, *arguments)) for arguments in STREAMS]
        until(lambda: all(under_way(fresh_engine, name) for name in ("events", "logs", "attach", "exec")))
        stopping = clients.enter_context(client(fresh_engine, "stop", "-t", "3", "deaf"))
        until(lambda: under_way(fresh_engine, "containers/{id}/stop") or stopping.poll() is not None)
        assert stopping.poll() is None, "the stop was over too soon"
        assert set(fresh_engine.stop().values()) == {"stopped"}
        assert stopping.wait(SECONDS) == 0, stopping.stdout.read() if stopping.stdout else ""
        for stream in streams:
            stream.wait(SECONDS)
    fresh_engine.start()
    state = fresh_engine.api("GET", "/containers/deaf/json").json["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 137)
    assert fresh_engine.docker_ok("exec", "other", "echo", "well") == "well"
