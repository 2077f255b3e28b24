"""The same again and again, by several clients and with no deaths: what a process holds must not grow.

Two parts, so that a line tells what an operation adds: start/stop cycles, then execs in one container that lives long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import TextIO

from bulkhead.ctl.engine_client import Answer, unframe
from tests.soak.slopes import SAMPLES, Sampler
from tests.support.engine import Engine
from tests.support.eventually import until

ANVIL = "anvil"
_TOLD = 10
# What went wrong a few times in a hundred thousand must not cost the lines through all of them.
_MOST_WRONG = 20
# What seems to grow is looked at for as long again: caches that are still filling are full then, and a leak goes on.
_MOST_LOOKS = 3
_SLEEP = {"Image": "busybox", "Cmd": ["sleep", "86400"], "StopSignal": "KILL"}
_KILLED = 137


class Stopped(AssertionError):
    """An operation of the steady part did not do what it does every time."""


@dataclass(slots=True, kw_only=True)
class Steady:
    """Two parts of so many `cycles` and `execs`, by so many `clients`, on one engine; `say` hears of the progress."""

    engine: Engine
    cycles: int
    execs: int
    clients: int
    limit: float
    say: TextIO
    samplers: dict[str, Sampler] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    _idle: SimpleQueue[str] = field(default_factory=SimpleQueue)
    _wrong: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Until all is done or `limit` seconds are over, half of them for the cycles.

        Raises Stopped upon the first failure.
        """
        began = time.monotonic()
        with self._machines():
            self._part("cycle", self.cycles, self._cycle, began + self.limit / 2)
            self._part("exec", self.execs, self._exec, began + self.limit)

    def verdict(self) -> list[str]:
        """What grows, and what was not done."""
        asked = {"cycle": self.cycles, "exec": self.execs}
        short = [
            f"only {self.done[part]} of {count} {part}s" for part, count in asked.items() if self.done[part] < count
        ]
        return (
            short
            + self._wrong
            + [f"{part}s: {each}" for part, sampler in self.samplers.items() for each in sampler.verdict()]
        )

    def _part(self, name: str, count: int, operation: Callable[[int], None], deadline: float) -> None:
        """As often as asked, and as much again while something seems to grow."""
        sampler = self.samplers[name] = Sampler(self.engine.instance)
        self.done[name] = 0
        sampler.begin()
        with ThreadPoolExecutor(max_workers=self.clients) as clients:
            for look in range(1, _MOST_LOOKS + 1):
                self._look(name, count, look * count, partial(clients.map, operation), deadline)
                if not sampler.grows:
                    break
        sampler.end()

    def _look(self, name: str, count: int, end: int, act: Callable[[range], Iterator[None]], deadline: float) -> None:
        """Everybody is idle while a sample is taken: what is under way is not what is held."""
        batch, began = max(1, count // SAMPLES), time.monotonic()
        while (done := self.done[name]) < end and time.monotonic() < deadline:
            until = min(done + batch, end)
            for _ in act(range(done, until)):
                pass
            self.done[name] = until
            self.samplers[name].take(until)
            if until * _TOLD // count > done * _TOLD // count:
                passed = time.monotonic() - began
                print(f"  {until} {name}s in {passed:.0f} s", file=self.say, flush=True)

    @contextmanager
    def _machines(self) -> Iterator[None]:
        """One container for the execs, and one for each client to start and stop."""
        names = [ANVIL, *(f"lathe{number}" for number in range(self.clients))]
        for name in names:
            self._must("POST", f"/containers/create?name={name}", _SLEEP)
        self._must("POST", f"/containers/{ANVIL}/start")
        # Shims that were launched ahead for the others are given back, and are anybody's then.
        until(lambda: len(list((self.engine.instance.run / "containers").iterdir())) == 1)
        for name in names[1:]:
            self._idle.put(name)
        yield
        for name in names:
            self._must("DELETE", f"/containers/{name}?force=1")

    def _cycle(self, number: int) -> None:
        """In turns one container is started and stopped again and again, and a new one is made and removed."""
        if number % 2:
            name = self._idle.get()
            try:
                self._live(name)
            finally:
                self._idle.put(name)
        else:
            name = f"cycle{number}"
            self._must("POST", f"/containers/create?name={name}", _SLEEP)
            self._live(name)
            self._must("DELETE", f"/containers/{name}")

    def _live(self, name: str) -> None:
        self._must("POST", f"/containers/{name}/start")
        self._must("POST", f"/containers/{name}/stop")
        state = self._must("GET", f"/containers/{name}/json").json["State"]
        if (state["Status"], state["ExitCode"]) != ("exited", _KILLED):
            raise Stopped(f"{name} is {state} after its stop")

    def _exec(self, number: int) -> None:
        body = {"Cmd": ["echo", str(number)], "AttachStdout": True}
        made = self._must("POST", f"/containers/{ANVIL}/exec", body)
        said = unframe(self._must("POST", f"/exec/{made.json['Id']}/start", {"Detach": False}).body)
        if said != f"{number}\n".encode():
            state = self.engine.api("GET", f"/exec/{made.json['Id']}/json").json
            told = f"exec {number} said {said!r}: running {state['Running']}, exit code {state['ExitCode']}"
            print(f"  {time.strftime('%T')} {told}, {made.json['Id']}", file=self.say, flush=True)
            self._wrong.append(told)
            if len(self._wrong) > _MOST_WRONG:
                raise Stopped(f"so many execs went wrong, the last: {told}")

    def _must(self, method: str, path: str, body: object = None) -> Answer:
        answer = self.engine.api(method, path, body)
        if answer.status >= 300:
            raise Stopped(f"{method} {path}: {answer.status} {answer.body!r}")
        return answer
