"""The promise, shown: a counting container while every daemon is killed and started again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bulkhead.ctl import commands
from bulkhead.ctl.daemons import Daemons
from bulkhead.ctl.engine_client import Answer, call, unframe
from bulkhead.errors import Internal
from bulkhead.model.instance import SERVICES
from bulkhead.settings import Settings

NAME = "bulkhead-demo"
COUNTER = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"


def demo(settings: Settings, say: Callable[[str], None] = print) -> int:
    """Kill each daemon, then all four, under a container that counts; then look for a missing number."""
    engine = _Engine(settings)
    commands.start(settings, SERVICES)
    commands.seed(settings, lambda _: None)
    engine.run_counter()
    before = engine.inspect()
    say(f"container {before['Id'][:12]} counts to itself every 50 ms as pid {before['State']['Pid']}")
    try:
        for services in (*((one,) for one in SERVICES), SERVICES):
            _kill_and_start(settings, services)
            say(f"killed -9 and started again: {', '.join(services):<40} counter at {engine.numbers()[-1]}")
        return _verdict(engine, before, say)
    finally:
        engine.remove()


def _kill_and_start(settings: Settings, services: tuple[str, ...]) -> None:
    for service in services:
        Daemons(settings).kill(service)
    commands.start(settings, services)


def _verdict(engine: _Engine, before: dict[str, Any], say: Callable[[str], None]) -> int:
    after, numbers = engine.inspect(), engine.numbers()
    same = all(after["State"][key] == before["State"][key] for key in ("Pid", "StartedAt"))
    complete = numbers == list(range(1, len(numbers) + 1))
    say(f"same pid and start time: {'yes' if same else 'NO'}")
    say(f"numbers 1 to {numbers[-1]} in the log, none missing: {'yes' if complete else 'NO'}")
    return 0 if same and complete else 1


class _Engine:
    """The few Engine API calls of the demo."""

    def __init__(self, settings: Settings) -> None:
        self._socket = settings.instance.docker_socket

    def run_counter(self) -> None:
        self.remove()
        self._expect(self._call("POST", "/images/create?fromImage=busybox&tag=latest"), 200)
        body = {"Image": "busybox", "Cmd": ["sh", "-c", COUNTER]}
        self._expect(self._call("POST", f"/containers/create?name={NAME}", body), 201)
        self._expect(self._call("POST", f"/containers/{NAME}/start"), 204)
        time.sleep(0.5)

    def inspect(self) -> dict[str, Any]:
        answer: dict[str, Any] = self._expect(self._call("GET", f"/containers/{NAME}/json"), 200).json
        return answer

    def numbers(self) -> list[int]:
        body = self._expect(self._call("GET", f"/containers/{NAME}/logs?stdout=1"), 200).body
        return [int(line) for line in unframe(body).split()]

    def remove(self) -> None:
        self._call("DELETE", f"/containers/{NAME}?force=1")

    def _call(self, method: str, path: str, body: object = None) -> Answer:
        return call(self._socket, method, path, body)

    def _expect(self, answer: Answer, status: int) -> Answer:
        if answer.status != status:
            raise Internal(f"cannot show the demo: the engine answered {answer.status}: {answer.body.decode()}")
        return answer
