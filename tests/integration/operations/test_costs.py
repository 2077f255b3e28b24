"""Operations cost what the table says: a guard of speed that no load on the machine can disturb."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from bulkhead.ctl.seed.images import Tree, image_of
from bulkhead.ctl.seed.push import push
from bulkhead.manager import launching_ahead
from bulkhead.shim.new_execs import SOON
from tests.integration.operations.expected import BRIDGE, COPIED, LIFE, PULL
from tests.support.engine import Engine, private_engine
from tests.support.eventually import until
from tests.support.witness import Witness, witness

# An echo that comes too late, or another's, is counted once; a change of the code each time.
ATTEMPTS = 3
EXECS = 50
LIVES = 10
SPARES = 2
LAYER_BYTES = 8 << 20
ADVICE = """\
More than the table says: find what costs it and take it back, or raise tests/integration/operations/expected.py in the
same commit and say what it buys. Less: lower the table, so that it stays so."""
_PORTS = {"NetworkMode": "bridge", "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}}
Counts = Mapping[str, float]


class Meter:
    """Counts of single requests: the kernel's by the witness, the services' own by /debug/ops."""

    def __init__(self, engine: Engine, seen: Witness) -> None:
        self.engine = engine
        self._seen = seen
        self.bytes: Counter[str] = Counter()
        self.seconds = 0.0

    def cost(self, method: str, path: str, body: Any = None) -> tuple[Counts, Any]:
        """What a request costs with all that it sets off, and its answer."""
        return self.cost_of(lambda: self.asked(method, path, body))

    def asked(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.engine.api(method, path, body)
        assert answer.status < 300, answer.body
        return answer

    def cost_of(self, act: Callable[[], Any]) -> tuple[Counts, Any]:
        """What requests in one go cost, and what comes of them."""
        before = self._told()
        begun = time.monotonic()
        answer = act()
        self.seconds = time.monotonic() - begun
        seen = self._seen.counts()
        self.bytes = Counter({name: value for name, value in seen.items() if name.startswith("bytes")})
        return (seen - self.bytes) + (self._told() - before), answer

    def settle(self) -> None:
        self._seen.counts()

    def _told(self) -> Counter[str]:
        counts = self.engine.api("GET", "/debug/ops").json["Counts"]
        told = Counter({name: value for service in counts.values() for name, value in service.items()})
        del told["rpc manager Operations"]
        return told


@pytest.fixture(scope="module")
def engine_alone() -> Iterator[Engine]:
    """Under strace it is slow, and what others ask of it would be counted."""
    with private_engine() as engine:
        engine.start()
        engine.seed()
        engine.pulled("busybox")
        yield engine


@pytest.fixture(scope="module")
def meter(engine_alone: Engine) -> Iterator[Meter]:
    """Warm: its shims have come back as spares, so that none is forked for the next container."""
    with witness(engine_alone) as seen:
        meter = Meter(engine_alone, seen)
        until(lambda: recorded(engine_alone))
        for _ in range(SPARES):
            _life(meter, _PORTS)
        yield meter


def test_a_containers_life_costs_what_the_table_says(meter: Meter) -> None:
    _assert_costs(lambda: _life(meter, {"NetworkMode": "none"}), LIFE)


def test_a_network_and_a_port_cost_what_the_table_says(meter: Meter) -> None:
    expected = {step: {**LIFE[step], **BRIDGE.get(step, {})} for step in LIFE}
    _assert_costs(lambda: _life(meter, _PORTS), expected)


def test_a_pull_costs_and_copies_what_the_table_says(meter: Meter) -> None:
    _assert_costs(lambda: _pull(meter), {"pull": PULL, "copied": COPIED})


def _life(meter: Meter, host_config: dict[str, Any]) -> dict[str, Counts]:
    """create, start, exec `true`, exit, remove: one whose start finds the shim that was launched ahead of it."""
    for _ in range(LIVES):
        costs, seconds = _any_life(meter, host_config)
        if seconds < launching_ahead._SECONDS:
            return costs
    pytest.skip(f"this machine is too busy: none of {LIVES} containers was started in {launching_ahead._SECONDS} s")


def _any_life(meter: Meter, host_config: dict[str, Any]) -> tuple[dict[str, Counts], float]:
    """The same, and the seconds until it was started."""
    costs = {}
    body = {"Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": host_config}
    meter.settle()
    begun = time.monotonic()
    costs["create"], answer = meter.cost("POST", "/containers/create", body)
    container = f"/containers/{answer.json['Id']}"
    costs["start"], _ = meter.cost("POST", f"{container}/start")
    seconds = time.monotonic() - begun
    costs["exec"] = _brief_exec(meter, container)
    costs["exit"], _ = meter.cost("POST", f"{container}/kill")
    costs["remove"], _ = meter.cost("DELETE", container)
    return costs, seconds


def _brief_exec(meter: Meter, container: str) -> Counts:
    """One that is told of as a whole: a machine that is busy makes of some a longer one.

    Its container's first is made by the manager, who has its shim make the others.
    """

    def act() -> None:
        created = meter.asked("POST", f"{container}/exec", {"Cmd": ["true"], "AttachStdout": True})
        meter.asked("POST", f"/exec/{created.json['Id']}/start", {"Detach": False})

    for _ in range(2):
        meter.cost_of(act)
    for _ in range(EXECS):
        cost, _ = meter.cost_of(act)
        if meter.seconds < SOON:
            return cost
    pytest.skip(f"this machine is too busy: none of {EXECS} execs was done in {SOON} s")


def recorded(engine: Engine) -> bool:
    """Whether the registry has written its own records of what was pushed, which it does some seconds afterwards."""
    place = engine.instance.data / "registry/meta.sqlite"
    with contextlib.closing(sqlite3.connect(f"file:{place}?mode=ro", uri=True)) as database:
        return not database.execute("SELECT name FROM dirty").fetchall()


def _pull(meter: Meter) -> dict[str, Counts]:
    """An image of one layer that is not there yet."""
    registry, tree = meter.engine.instance.registry, Tree()
    tree.file("data", os.urandom(LAYER_BYTES))
    image = image_of(tree)
    push(registry, "costs", "latest", image)
    until(lambda: recorded(meter.engine))
    meter.settle()
    cost, answer = meter.cost("POST", f"/images/create?fromImage={registry}/costs&tag=latest")
    assert b"Downloaded newer image" in answer.body
    tenths = {name.removeprefix("bytes "): round(count / LAYER_BYTES, 1) for name, count in meter.bytes.items()}
    return {"pull": cost, "copied": {name: share for name, share in tenths.items() if share}}


def _assert_costs(measure: Any, expected: Mapping[str, Counts]) -> None:
    for _ in range(ATTEMPTS):
        found = measure()
        problems = [line for step in expected for line in _differences(step, found[step], expected[step])]
        if not problems:
            return
    pytest.fail("\n".join([*problems, ADVICE]), pytrace=False)


def _differences(step: str, found: Counts, expected: Counts) -> Iterator[str]:
    for what in sorted({*found, *expected}):
        have, want = found.get(what, 0), expected.get(what, 0)
        if have != want:
            yield f"{step}: {have} {what}, the table says {want}: {'dearer' if have > want else 'cheaper'}"
