"""An engine under the matrix, a bystander in it, and calls that may be cut off."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any

from bulkhead.ctl import failpoints, remains
from bulkhead.ctl.engine_client import Answer, unframe
from bulkhead.model.instance import SERVICES
from tests.support.engine import Engine
from tests.survival.matrix.machine import Machine

CALL_SECONDS = 40.0
# What a subject says when it begins, if it says anything, and how long that is waited for after a reboot.
LINES = 300
REVIVAL_SECONDS = 2.0
# The registry writes a push's record some seconds after it, see bulkhead.registry.collection.RECORD_SECONDS.
REGISTRY_SECONDS = 20.0
BYSTANDER = "bystander"
_COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"


class Refused(AssertionError):
    """The engine has answered, and not what was hoped for."""


class Host:
    """One engine, used by cell after cell."""

    def __init__(self, engine: Engine, machine: Machine) -> None:
        self.engine = engine
        self.machine = machine
        self._count = 0
        self._is_set = True
        self._first: dict[str, Any] = {}

    def name(self) -> str:
        """One that no cell has used yet."""
        self._count += 1
        return f"subject{self._count}"

    # --- calls

    def call(self, method: str, path: str, body: Any = None) -> Answer:
        return self.engine.api(method, path, body, seconds=CALL_SECONDS)

    def done(self, method: str, path: str, body: Any = None, *, also: tuple[int, ...] = ()) -> Any:
        """The answer's JSON. Raises Refused unless it is a 2xx or one of `also`."""
        answer = self.call(method, path, body)
        if not 200 <= answer.status < 300 and answer.status not in also:
            raise Refused(f"{method} {path}: {answer.status} {answer.body[:300]!r}")
        return answer.json

    def create(self, name: str, *command: str, host: dict[str, Any] | None = None, **more: Any) -> str:
        body = {"Image": "busybox", "Cmd": list(command), "HostConfig": host or {}, **more}
        made = self.done("POST", f"/containers/create?name={name}", body)
        return str(made["Id"])

    def run(self, name: str, *command: str, host: dict[str, Any] | None = None, **more: Any) -> str:
        made = self.create(name, *command, host=host, **more)
        self.done("POST", f"/containers/{name}/start")
        return made

    def state(self, name: str) -> dict[str, Any]:
        """What inspect says of its state; {} when there is no such container."""
        answer = self.call("GET", f"/containers/{name}/json")
        return dict(answer.json["State"]) if answer.status == 200 else {}

    def output(self, name: str) -> str:
        return unframe(self.call("GET", f"/containers/{name}/logs?stdout=1").body).decode()

    # --- the bystander

    def place_bystander(self) -> None:
        """A container that nothing here concerns."""
        self.run(BYSTANDER, "sh", "-c", _COUNT)
        self._first = self.state(BYSTANDER)

    def bystander_noticed(self) -> list[str]:
        """What of it is not as it was, in words; nothing where there is none."""
        if not self.has_bystander:
            return []
        state = self.state(BYSTANDER)
        wrong = [
            f"the bystander's {key} was {self._first[key]}, is {state.get(key)}"
            for key in ("Pid", "StartedAt", "Status")
            if state.get(key) != self._first[key]
        ]
        numbers = [int(line) for line in self.output(BYSTANDER).split()]
        if numbers != list(range(1, len(numbers) + 1)):
            wrong.append("lines of the bystander are missing")
        return wrong

    @property
    def has_bystander(self) -> bool:
        return bool(self._first)

    def bystander_ended(self) -> list[str]:
        """What of a reboot's end of it is not right; it is gone after."""
        state = self.state(BYSTANDER)
        wrong = [] if state["Status"] == "exited" else [f"the bystander is {state['Status']} after a reboot"]
        self.done("DELETE", f"/containers/{BYSTANDER}?force=1&v=1")
        self._first = {}
        return wrong

    def without_harmed_bystander(self) -> list[str]:
        """What of it is not as it was; if anything, it is gone after."""
        wrong = self.bystander_noticed()
        if wrong:
            self.done("DELETE", f"/containers/{BYSTANDER}?force=1&v=1", also=(404,))
            self._first = {}
        return wrong

    def has_lost(self, name: str, what: str) -> bool:
        """Whether inspect states that."""
        return any(each["What"] == what for each in self.state(name).get("Losses") or ())

    def revive(self, container: str) -> None:
        """Start again what has run, as its user would, and let it come to where it was."""
        if container and self.state(container):
            before = self._lines(container)
            self.done("POST", f"/containers/{container}/start", also=(304, 404, 409))
            if before >= LINES:
                until(lambda: self._lines(container) >= before + LINES, REVIVAL_SECONDS)

    def _lines(self, name: str) -> int:
        return len(self.output(name).split())

    # --- faults

    def registry_rests(self) -> None:
        """Wait until the registry has written what it writes after a push. Refused when it does not come to that."""
        if not until(lambda: not self._is_registry_behind(), REGISTRY_SECONDS):
            raise Refused(f"the registry has records to write after {REGISTRY_SECONDS:g} s still")

    def _is_registry_behind(self) -> bool:
        database = self.engine.instance.data / "registry" / "meta.sqlite"
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            return connection.execute("SELECT 1 FROM dirty LIMIT 1").fetchone() is not None

    def set(self, setting: str) -> None:
        if setting or self._is_set:
            self._is_set = True
            failpoints.put(self.engine.settings, setting)
            self._is_set = bool(setting)

    def trace(self) -> list[tuple[int, str, str]]:
        return failpoints.trace(self.engine.instance)

    def wake(self) -> None:
        """Have everybody of the engine go on: one may have stood still after its cell was over."""
        services = {pid for service in SERVICES if (pid := self.engine.pid(service)) is not None}
        for pid in services | set(remains.processes(self.engine.instance)):
            send(pid, signal.SIGCONT)

    def shim_of(self, container_id: str) -> int:
        """The pid of who holds it, 0 when nobody does."""
        try:
            record = json.loads((self.engine.instance.container_data(container_id) / "shim.json").read_bytes())
        except FileNotFoundError:
            return 0
        return int(record["pid"])

    def recover(self) -> float:
        """Start what is dead; how many seconds until it serves."""
        began = time.monotonic()
        if any(self.engine.pid(service) is None for service in SERVICES):
            self.engine.start()
        return time.monotonic() - began


class Attempt:
    """An operation in a thread of its own: the process that does it may die or stand still."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.error: BaseException | None = None
        self._act = act
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def ends(self, seconds: float) -> bool:
        """Wait for its end; whether it came."""
        self._thread.join(seconds)
        return self.over

    def _run(self) -> None:
        try:
            self._act()
        except Exception as error:
            self.error = error


def until(what: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def send(pid: int, number: signal.Signals) -> None:
    """A signal; nothing when the process is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
