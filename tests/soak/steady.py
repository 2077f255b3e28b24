"""The same cycle again and again, with no deaths: what a process holds must not grow."""

from __future__ import annotations

import time

from bulkhead.ctl.engine_client import Answer
from tests.soak.slopes import Sampler
from tests.support.engine import Engine

SAMPLE_EVERY = 5


def steady(engine: Engine, seconds: float, sampler: Sampler) -> int:
    """Create, start, exec, stop and remove for `seconds`, beside a container that only execs; how many cycles."""
    _must(engine.api("POST", "/containers/create?name=anvil", {"Image": "busybox", "Cmd": ["sleep", "86400"]}))
    _must(engine.api("POST", "/containers/anvil/start"))
    deadline, cycle = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        cycle += 1
        _cycle(engine)
        if cycle % SAMPLE_EVERY == 0:
            sampler.take(cycle)
    _must(engine.api("DELETE", "/containers/anvil?force=1"))
    return cycle


def _cycle(engine: Engine) -> None:
    _must(
        engine.api(
            "POST", "/containers/create?name=cycle", {"Image": "busybox", "Cmd": ["sleep", "60"], "StopSignal": "KILL"}
        )
    )
    _must(engine.api("POST", "/containers/cycle/start"))
    for name in ("cycle", "anvil", "anvil", "anvil"):
        made = _must(engine.api("POST", f"/containers/{name}/exec", {"Cmd": ["true"], "AttachStdout": True}))
        _must(engine.api("POST", f"/exec/{made.json['Id']}/start", {"Detach": False}))
    _must(engine.api("GET", "/containers/json"))
    _must(engine.api("POST", "/containers/cycle/stop"))
    _must(engine.api("DELETE", "/containers/cycle"))


def _must(answer: Answer) -> Answer:
    assert answer.status < 300, f"{answer.status}: {answer.body!r}"
    return answer
