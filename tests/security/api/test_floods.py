"""M05, M06, M24: numbers without measure, streams that nobody reads, subscribers by the hundred."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.security.api.wire import (
    connected,
    containers,
    create,
    descriptors,
    exchange,
    resident,
    settled,
    statuses,
    until,
)
from tests.support.engine import Engine
from tests.support.leaks import facts, left_after

GROWTH = 24  # MiB: what allocators keep, far less than what is thrown at them


@pytest.fixture(autouse=True)
def emptied(engine: Engine) -> Iterator[None]:
    yield
    engine.remove_containers()


HOSTS: dict[str, dict[str, Any]] = {
    "cpus-beyond": {"CpusetCpus": "0-4294967295"},
    "cpus-no-range": {"CpusetCpus": "1-2-3"},
    "mems-beyond": {"CpusetMems": "0-4294967295"},
    "memory-2^63": {"Memory": 2**63},
    "memory-2^64": {"Memory": 2**64},
    "memory-negative": {"Memory": -5},
    "memory-float": {"Memory": 1e300},
    "memory-little": {"Memory": 1},
    "pids-2^63": {"PidsLimit": 2**63},
    "shm-negative": {"ShmSize": -1},
    "shm-2^63": {"ShmSize": 2**63},
    "ulimit-2^63": {"Ulimits": [{"Name": "nofile", "Soft": 2**63, "Hard": 2**63}]},
    "cpus-of-nobody": {"NanoCpus": 2**63 - 1},
    "score": {"OomScoreAdj": 5000},
    "weight": {"BlkioWeight": 70000},
    "swappiness": {"Memory": 1 << 28, "MemorySwappiness": 10**9},
    "ports-of-a-host": {"PortBindings": {"80/tcp": [{"HostPort": "1-1000000"}]}},
    "ports-of-a-container": {"PortBindings": {"1-1000000/tcp": [{}]}},
}


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
def test_numbers_without_measure_are_refused(engine: Engine, host: dict[str, Any]) -> None:
    answer = engine.api("POST", "/containers/create", {"Image": "busybox", "HostConfig": host}, seconds=20)
    assert answer.status == 400, answer.body
    assert containers(engine) == []


def test_numbers_with_measure_are_taken(engine: Engine) -> None:
    """The control."""
    host = {
        "CpusetCpus": "0", "CpusetMems": "0", "Memory": 1 << 28, "PidsLimit": -1, "ShmSize": 1 << 20,
        "Ulimits": [{"Name": "core", "Soft": -1, "Hard": -1}], "NanoCpus": 10**9, "OomScoreAdj": 1000,
        "PortBindings": {"80/tcp": [{"HostPort": "32000-32010"}]},
    }  # fmt: skip
    answer = engine.api("POST", "/containers/create", {"Image": "busybox", "HostConfig": host})
    assert answer.status == 201, answer.body


LATE: dict[str, dict[str, Any]] = {
    "memory-2^63-1": {"Memory": 2**63 - 1},
    "shares": {"CpuShares": 2**63 - 1},
    "quota": {"CpuQuota": 2**63 - 1},
    "ulimit-no-number": {"Ulimits": [{"Name": "nofile", "Soft": -2, "Hard": -2}]},
    "ulimit-turned-round": {"Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 5}]},
    "ulimit-unknown": {"Ulimits": [{"Name": "x", "Soft": 1, "Hard": 1}]},
}


@pytest.mark.parametrize("host", LATE.values(), ids=LATE)
def test_what_only_the_kernel_refuses_is_the_clients_fault_too(engine: Engine, host: dict[str, Any]) -> None:
    """As Docker does, on start; nothing runs and nothing is left of it."""
    before = facts(engine.instance)
    body = {"Image": "busybox", "Cmd": ["sleep", "9"], "HostConfig": {"NetworkMode": "none", **host}}
    container = engine.api("POST", "/containers/create", body).json["Id"]
    answer = engine.api("POST", f"/containers/{container}/start")
    assert answer.status == 400, answer.body
    assert engine.api("GET", f"/containers/{container}/json").json["State"]["Running"] is False
    engine.remove_containers()
    assert left_after(engine.instance, before) == []


REFUSED = {
    "a-million-labels": {"Image": "busybox", "Labels": {f"label{number}": "" for number in range(10**6)}},
    "a-number-of-a-million-digits": b'{"Image":"busybox","HostConfig":{"Memory":' + b"9" * 10**6 + b"}}",
    "a-million-brackets": b'{"Image":"busybox","Labels":' + b"[" * 10**6,
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_bodies_without_measure_cost_nothing_that_stays(engine: Engine, body: Any) -> None:
    raw = create(body)
    assert statuses(exchange(engine, raw)) == [400]
    before = resident(engine, "api")
    for _ in range(8):
        assert statuses(exchange(engine, raw)) == [400]
    assert resident(engine, "api") - before < GROWTH
    assert containers(engine) == []


def running(engine: Engine, *command: str, **config: Any) -> str:
    body = {"Image": "busybox", "Cmd": command, "HostConfig": {"NetworkMode": "none"}, **config}
    container: str = engine.api("POST", "/containers/create", body).json["Id"]
    assert engine.api("POST", f"/containers/{container}/start").status == 204
    return container


def of_idle_shim(engine: Engine, container: str) -> tuple[int, int]:
    """The same once all are connected that will be: two listeners, the manager, and the supervisor after its answer."""
    assert settled(lambda: _sockets(engine, container) >= 4)
    return of_shim(engine, container)


def _place(engine: Engine, container: str) -> Path:
    record = json.loads((engine.instance.container_data(container) / "shim.json").read_bytes())
    return Path("/proc", str(record["pid"]))


def _sockets(engine: Engine, container: str) -> int:
    found = 0
    for entry in (_place(engine, container) / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += str(entry.readlink()).startswith("socket:")
    return found


def of_shim(engine: Engine, container: str) -> tuple[int, int]:
    """Its descriptors, and its memory in MiB."""
    place = _place(engine, container)
    pages = int((place / "statm").read_text().split()[1])
    return len(list((place / "fd").iterdir())), pages >> 8


def upgraded(path: str, body: str = "") -> bytes:
    lines = f"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"POST {path} HTTP/1.1\r\nHost: docker\r\n{lines}\r\n\r\n{body}".encode()


def test_output_that_nobody_reads_is_not_kept(engine: Engine) -> None:
    """The process waits or its reader is dropped; neither shim nor API keep what was not read."""
    container = running(engine, "sleep", "1000")
    base, of_api = of_idle_shim(engine, container), descriptors(engine)
    memory = resident(engine, "api")
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            config = {"Cmd": ["dd", "if=/dev/zero", "bs=1M", "count=200"], "AttachStdout": True}
            made = engine.api("POST", f"/containers/{container}/exec", config).json["Id"]
            client = stack.enter_context(connected(engine))
            client.sendall(upgraded(f"/exec/{made}/start", "{}"))
            until(client, b"\0" * 100_000)  # the control: it writes
        assert of_shim(engine, container)[0] > base[0]
        assert engine.api("GET", f"/containers/{container}/json", seconds=20).status == 200
        assert resident(engine, "api") - memory < GROWTH
        assert of_shim(engine, container)[1] - base[1] < GROWTH
    pids = f"/containers/{container}/top"
    assert settled(lambda: len(engine.api("GET", pids).json["Processes"]) == 1)  # dd lost its reader
    # A shim that creates execs keeps the connection for news of them, and the file with how the last ones went.
    assert settled(lambda: of_shim(engine, container)[0] <= base[0] + 2)
    assert settled(lambda: descriptors(engine) <= of_api + 2)


def test_clients_that_attach_and_leave(engine: Engine) -> None:
    container = running(engine, "cat", OpenStdin=True)
    raw = upgraded(f"/containers/{container}/attach?stream=1&stdin=1&stdout=1&stderr=1")

    def come_and_go(times: int) -> None:
        for number in range(times):
            with connected(engine) as client:
                client.sendall(raw)
                if number % 2:
                    until(client, b"\r\n\r\n")

    come_and_go(10)
    base = of_idle_shim(engine, container)
    of_api = descriptors(engine)
    memory = resident(engine, "api")
    come_and_go(500)
    assert settled(lambda: of_shim(engine, container)[0] <= base[0])
    assert settled(lambda: descriptors(engine) <= of_api + 2)
    assert resident(engine, "api") - memory < GROWTH
    assert of_shim(engine, container)[1] - base[1] < GROWTH


def test_a_dead_terminal_is_resized(engine: Engine) -> None:
    container = running(engine, "sleep", "1000", Tty=True)
    resize = f"/containers/{container}/resize?h=24&w=80"
    assert engine.api("POST", resize).status == 200  # the control: alive it works
    engine.api("POST", f"/containers/{container}/kill")
    engine.api("POST", f"/containers/{container}/wait")
    counts = {each: descriptors(engine, each) for each in ("api", "manager")}
    memory = resident(engine, "manager")
    answers = {engine.api("POST", resize).status for _ in range(1000)}
    assert answers == {409}
    assert settled(lambda: all(descriptors(engine, each) <= counts[each] + 2 for each in counts))
    assert resident(engine, "manager") - memory < GROWTH


SUBSCRIBERS = 150


def test_subscribers_that_never_read(engine: Engine) -> None:
    """What they did not read is not kept for each of them; who reads is told everything."""
    counts = {each: descriptors(engine, each) for each in ("api", "manager")}
    listen = b"GET /events HTTP/1.1\r\nHost: docker\r\n\r\n"
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(engine)) for _ in range(SUBSCRIBERS)]
        for client in clients:
            client.sendall(listen)
        for client in clients:
            until(client, b"\r\n\r\n")
        reader = clients[0].makefile("rb")

        def come_and_go(times: int) -> dict[str, int]:
            for _ in range(times):
                body = {"Image": "busybox", "Labels": {"pad": "x" * 100_000}}
                assert engine.api("POST", "/containers/create", body, seconds=20).status == 201
                engine.remove_containers()
                while b'"destroy"' not in reader.readline():  # the control: it is told to who reads
                    pass
            return {each: resident(engine, each) for each in counts}

        full = come_and_go(8)  # more than the engine may keep for one of them
        still = come_and_go(8)
        reader.close()
        assert all(still[each] - full[each] < 2 * GROWTH for each in counts), (full, still)
        assert engine.api("GET", "/containers/json", seconds=20).status == 200
    assert settled(lambda: all(descriptors(engine, each) <= counts[each] + 2 for each in counts))
