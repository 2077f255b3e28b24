"""A created exec's connection, held for its start: who finds it closed asks anew, and nothing begins twice."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bulkhead.api.adapters.shim_execs import ShimExecs
from bulkhead.errors import Unavailable
from bulkhead.model.execs import ExecSpec
from bulkhead.model.instance import Instance

CONTAINER = "c" * 64
EXEC = "e" * 52 + "c" * 12
CREATED = b'{"ok":true,"tty":false,"exec_id":"%b"}\n' % EXEC.encode()
STARTED = b'{"ok":true,"tty":false}\n'
UNKNOWN = b'{"ok":false,"error":"No such exec instance","kind":"NotFound"}\n'
SPEC = ExecSpec(command=("true",))


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    instance = Instance(run=tmp_path, data=tmp_path / "data")
    instance.container_run(CONTAINER).mkdir(parents=True)
    return instance


@pytest.fixture
def shim(instance: Instance) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(instance.stdio_socket(CONTAINER)))
        listener.listen()
        listener.settimeout(20)
        yield listener


def asked(client: socket.socket) -> str:
    return str(json.loads(client.makefile().readline())["op"])


def lets_go(shim: socket.socket, *answers: bytes) -> list[str]:
    """Answers who creates, hangs up when he has asked for the start, and answers whoever comes then. What it was
    asked."""
    said = []
    with shim.accept()[0] as first:
        said.append(asked(first))
        first.sendall(CREATED)
        said.append(asked(first))
    for answer in answers:
        with shim.accept()[0] as later:
            said.append(asked(later))
            later.sendall(answer)
    return said


async def test_who_was_let_go_of_asks_anew(instance: Instance, shim: socket.socket) -> None:
    execs = ShimExecs(instance)
    with ThreadPoolExecutor() as pool:
        serving = pool.submit(lets_go, shim, STARTED)
        assert await execs.create(CONTAINER, SPEC) == EXEC
        started = await execs.start(EXEC, 0, 0)
    assert serving.result() == ["new", "start", "start"]
    assert started is not None
    assert started[1] is False
    started[0].close()


async def test_what_another_shim_knows_nothing_of_is_not_begun_again(instance: Instance, shim: socket.socket) -> None:
    """It may have begun with the one before: the manager, who would begin it, is not asked to."""
    execs = ShimExecs(instance)
    with ThreadPoolExecutor() as pool:
        serving = pool.submit(lets_go, shim, UNKNOWN)
        assert await execs.create(CONTAINER, SPEC) == EXEC
        with pytest.raises(Unavailable, match="closed the connection"):
            await execs.start(EXEC, 0, 0)
    assert serving.result() == ["new", "start", "start"]


async def test_nor_what_no_shim_is_there_for(instance: Instance, shim: socket.socket) -> None:
    execs = ShimExecs(instance)
    with ThreadPoolExecutor() as pool:
        serving = pool.submit(lets_go, shim)
        assert await execs.create(CONTAINER, SPEC) == EXEC
        instance.stdio_socket(CONTAINER).unlink()
        with pytest.raises(Unavailable, match="closed the connection"):
            await execs.start(EXEC, 0, 0)
    assert serving.result() == ["new", "start"]
