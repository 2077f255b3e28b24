"""A manager that is stopped keeps its connections: who asks it for a stream is told so, who has one keeps it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from bulkhead.ctl.engine_client import Answer
from tests.security.api.wire import connected, statuses, until
from tests.support.engine import Engine

pytestmark = [pytest.mark.root]
SECONDS = 60.0
STREAMS = (
    ("POST", "/containers/lasting/wait"),
    ("GET", "/events"),
    ("GET", "/containers/lasting/stats"),
    ("POST", "/images/create?fromImage=busybox&tag=latest"),
    ("GET", "/images/busybox/get"),
    ("GET", "/containers/lasting/archive?path=/etc"),
    ("GET", "/containers/lasting/logs?follow=1&stdout=1"),
)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process stands still while entered."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_streams_of_a_manager_that_is_stopped_end_in_words_and_those_that_have_begun_go_on(
    fresh_engine: Engine,
) -> None:
    engine = fresh_engine
    engine.docker_ok("run", "-d", "--name", "lasting", "busybox", "sleep", "600")
    manager = engine.pid("manager")
    assert manager is not None

    def asked(stream: tuple[str, str]) -> Answer:
        return engine.api(*stream, seconds=SECONDS)

    with ExitStack() as clients, ThreadPoolExecutor(len(STREAMS)) as threads:
        waiting = clients.enter_context(_begun(engine, "POST /containers/lasting/wait"))
        feed = clients.enter_context(_begun(engine, 'GET /events?filters={"event":["die"]}'))
        with stopped(manager):
            # Those that have begun had waited for longer by then.
            answers = list(threads.map(asked, STREAMS))
        for stream, answer in zip(STREAMS, answers, strict=True):
            assert answer.status == 503, (stream, answer)
            assert b"the manager service does not answer" in answer.body, (stream, answer)
        engine.docker_ok("kill", "lasting")
        assert b'"StatusCode":137' in until(waiting, b"}")
        assert b'"Action":"die"' in until(feed, b"}\n")


@contextmanager
def _begun(engine: Engine, what: str) -> Iterator[socket.socket]:
    """Whose head has come: the manager has answered."""
    with connected(engine) as client:
        client.settimeout(SECONDS)
        client.sendall(f"{what} HTTP/1.1\r\nHost: docker\r\n\r\n".encode())
        assert statuses(until(client, b"\r\n\r\n")) == [200]
        yield client
