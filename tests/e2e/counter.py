"""A container that counts aloud: what it printed tells whether anything was lost."""

from __future__ import annotations

import time
from typing import Any

from bulkhead.ctl.demo import COUNTER
from bulkhead.ctl.engine_client import unframe
from tests.support.engine import Engine

SECONDS = 20.0


class Counter:
    """One counting container and what was true of it when it started."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self.name = name
        engine.docker_ok("run", "-d", "--name", name, "busybox", "sh", "-c", COUNTER)
        self.first_state = self.state()
        self.reaches(3)

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self._engine.api("GET", f"/containers/{self.name}/json").json["State"]
        return state

    def numbers(self) -> list[int]:
        body = self._engine.api("GET", f"/containers/{self.name}/logs?stdout=1").body
        return [int(line) for line in unframe(body).split()]

    def reaches(self, number: int) -> None:
        """Wait until the log holds `number`."""
        deadline = time.monotonic() + SECONDS
        while not (numbers := self.numbers()) or numbers[-1] < number:
            assert time.monotonic() < deadline, f"{number} never came, the last is {numbers[-1:]}"

    def noticed_nothing(self) -> None:
        """Same process, same start time, it still counts, and no number is missing."""
        state, numbers = self.state(), self.numbers()
        for key in ("Pid", "StartedAt", "Status"):
            assert state[key] == self.first_state[key]
        self.reaches(numbers[-1] + 3)
        numbers = self.numbers()
        assert numbers == list(range(1, len(numbers) + 1))
