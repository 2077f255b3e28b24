"""Operations and deaths drawn from one seed, each followed by a look whether the engine agrees with the model.

An operation may be cut by the death of a daemon in its middle: then the container must be as before or as after,
and the operation must work when it is asked again.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import tarfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from bulkhead.ctl.doctor import doctor
from bulkhead.ctl.engine_client import Answer, call, unframe
from bulkhead.errors import BulkheadError, Unavailable
from bulkhead.model.instance import SERVICES
from tests.soak.model import Life, State, count_faults, faults
from tests.support.engine import Engine

STOP_CODE, KILL_CODE, EXEC_CODE = 7, 137, 5
# It counts, and ends at TERM with a code of its own.
COUNT = f"trap 'exit {STOP_CODE}' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done"
CODES = frozenset((0, STOP_CODE, KILL_CODE))
_CONTAINERS = quote('{"type":["container"]}')
MOST_CONTAINERS = 6
SETTLE_SECONDS = 30.0
LOOK_EVERY = 25
CUT_CHANCE = 0.08
KILL_CHANCE = 0.06
# An end that is cut: thawed and not yet killed, killed and started again by its policy, ended and not yet removed.
_ON_THE_WAY = (State.RUNNING, State.EXITED)
_DAEMONS = ("manager", "api", "supervisor")
_CUTTERS = (("manager",), ("api",), ("supervisor",), ("manager", "supervisor"), _DAEMONS)


class Wrong(AssertionError):
    """The engine and the model do not agree."""


@dataclass(slots=True)
class Storm:
    """One engine under a storm of operations."""

    engine: Engine
    seed: int
    done: Counter[str] = field(default_factory=Counter)
    story: list[str] = field(default_factory=list)
    _lives: dict[str, Life] = field(default_factory=dict)
    _events: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    _heard: int = field(default_factory=time.time_ns)
    _number: int = 0
    _random: random.Random = field(default_factory=random.Random)
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(max_workers=1))

    def run(self, seconds: float, most: int = 1 << 60) -> None:
        """Go on for `seconds` or `most` steps, then remove everything. Raises Wrong with the end of the story."""
        self._random.seed(self.seed)
        self._must(self.engine.api("POST", "/networks/create", {"Name": "side"}), 201)
        deadline = time.monotonic() + seconds
        try:
            for step in range(most):
                if time.monotonic() > deadline:
                    break
                self._step(step)
            self._look()
            for name in list(self._lives):
                self._remove(self._lives[name])
            self._must(self.engine.api("DELETE", "/networks/side"), 204)
            self._look()
        except (AssertionError, BulkheadError, OSError, KeyError, TypeError, ValueError) as error:
            told = "\n".join(self.story[-30:])
            raise Wrong(f"seed {self.seed}, step {len(self.story)}: {type(error).__name__}: {error}\n{told}") from error
        finally:
            self._thread.shutdown(wait=False)

    # --- one step

    def _step(self, step: int) -> None:
        if self._random.random() < KILL_CHANCE:
            self._death()
        elif len(self._lives) < 2 or (len(self._lives) < MOST_CONTAINERS and self._random.random() < 0.2):
            self._create()
        else:
            life = self._lives[self._random.choice(sorted(self._lives))]
            self._operate(life, self._random.choice(_OPERATIONS[life.state]))
        if step % LOOK_EVERY == LOOK_EVERY - 1:
            self._look()

    def _note(self, what: str) -> None:
        self.story.append(what)
        self.done[what.split()[0]] += 1

    def _operate(self, life: Life, operation: str) -> None:
        self._note(f"{operation} {life.name}")
        getattr(self, f"_{operation}")(life)
        if life.name in self._lives:
            self._agree(life)

    def _ask(
        self, life: Life, method: str, path: str, after: State, *, body: Any = None, among: tuple[State, ...] = ()
    ) -> None:
        """An operation that leads to `after`, perhaps cut by a death, and then asked again."""
        url = f"/containers/{life.name}{path}"
        if self._random.random() >= CUT_CHANCE:
            answer = self.engine.api(method, url, body)
            if answer.status not in (200, 201, 204):
                raise Wrong(f"{method} {url}: {answer.status} {answer.body!r}")
            life.state = after
            return
        before = life.state
        succeeded = self._cut(lambda: self.engine.api(method, url, body))
        life.state = self._settled(life, {before, after, *among})
        # Where before and after look alike, only the answer tells.
        if life.state is not after or (before is after and not succeeded):
            answer = self.engine.api(method, url, body)
            # It may have ended by the first asking, in between.
            if answer.status not in (200, 201, 204, 304, 404, 409):
                raise Wrong(f"again {method} {url} from {life.state}: {answer.status} {answer.body!r}")
            life.state = after

    def _cut(self, operation: Callable[[], Answer]) -> bool:
        """Kill daemons while an operation is under way; they are back when this returns. Whether it was done."""
        victims = self._random.choice(_CUTTERS)
        pause = self._random.random() * 0.05
        self._note(f"cut by the death of {' '.join(victims)} after {pause * 1000:.0f} ms")
        asked: Future[Answer] = self._thread.submit(operation)
        time.sleep(pause)
        self.engine.kill(*victims)
        self.engine.start()
        try:
            return asked.result(timeout=60).status < 300
        except Unavailable:
            return False

    def _settled(self, life: Life, allowed: set[State]) -> State:
        """What inspect says once it is one of `allowed`."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while (state := self._state(life)) not in allowed:
            if time.monotonic() > deadline:
                raise Wrong(f"{life.name} is {state}, not of {sorted(each.value for each in allowed)}")
            time.sleep(0.02)
        return state

    def _state(self, life: Life) -> State | str:
        found = self.engine.api("GET", f"/containers/{life.name}/json")
        if found.status == 404:
            return State.GONE
        told = found.json["State"]["Status"]
        return State(told) if told in {each.value for each in State} else str(told)

    def _agree(self, life: Life) -> None:
        """Inspect says what the model says."""
        self._settled(life, {life.state})
        told = self.engine.api("GET", f"/containers/{life.name}/json").json
        if told["Id"] != life.id:
            raise Wrong(f"{life.name} is {told['Id']}, not {life.id}")
        if life.state is State.EXITED and life.code is not None and told["State"]["ExitCode"] != life.code:
            raise Wrong(f"{life.name} ended with {told['State']['ExitCode']}, not {life.code}")
        if life.alive and not told["State"]["Pid"]:
            raise Wrong(f"{life.name} is alive without a pid")

    # --- operations

    def _create(self) -> None:
        self._number += 1
        life = Life(name=f"c{self._number:04d}", restarts_itself=self._random.random() < 0.25)
        self._note(f"create {life.name}{' --restart always' if life.restarts_itself else ''}")
        host = {"RestartPolicy": {"Name": "always" if life.restarts_itself else "no"}}
        body = {"Image": "busybox", "Cmd": ["sh", "-c", COUNT], "HostConfig": host}
        url = f"/containers/create?name={life.name}"
        if self._random.random() < CUT_CHANCE:
            self._cut(lambda: self.engine.api("POST", url, body))
            if self._settled(life, {State.GONE, State.CREATED}) is State.GONE:
                self._must(self.engine.api("POST", url, body), 201)
        else:
            self._must(self.engine.api("POST", url, body), 201)
        life.id = self.engine.api("GET", f"/containers/{life.name}/json").json["Id"]
        life.state = State.CREATED
        self._lives[life.name] = life
        self._agree(life)

    def _start(self, life: Life) -> None:
        self._ask(life, "POST", "/start", State.RUNNING)

    def _stop(self, life: Life) -> None:
        self._ask(life, "POST", "/stop?t=20", State.EXITED, among=_ON_THE_WAY)
        # The trap may not have been set yet.
        life.code = None

    def _kill(self, life: Life) -> None:
        life.code = KILL_CODE if life.state is not State.PAUSED else None
        self._ask(life, "POST", "/kill", State.EXITED, among=_ON_THE_WAY)

    def _restart(self, life: Life) -> None:
        self._ask(life, "POST", "/restart?t=20", State.RUNNING, among=_ON_THE_WAY)

    def _pause(self, life: Life) -> None:
        self._ask(life, "POST", "/pause", State.PAUSED)

    def _unpause(self, life: Life) -> None:
        self._ask(life, "POST", "/unpause", State.RUNNING)

    def _rename(self, life: Life) -> None:
        self._number += 1
        name = f"c{self._number:04d}"
        self._must(self.engine.api("POST", f"/containers/{life.name}/rename?name={name}"), 204)
        del self._lives[life.name]
        life.name = name
        self._lives[name] = life

    def _remove(self, life: Life) -> None:
        self._ask(life, "DELETE", "?force=1&v=1", State.GONE, among=_ON_THE_WAY)
        if self._state(life) is not State.GONE or self.engine.api("GET", f"/containers/{life.id}/json").status != 404:
            raise Wrong(f"{life.name} is still there")
        del self._lives[life.name]

    def _exec(self, life: Life) -> None:
        body = {"Cmd": ["sh", "-c", f"echo said; exit {EXEC_CODE}"], "AttachStdout": True}
        made = self._must(self.engine.api("POST", f"/containers/{life.name}/exec", body), 201)
        said = self.engine.api("POST", f"/exec/{made.json['Id']}/start", {"Detach": False})
        if unframe(said.body) != b"said\n":
            raise Wrong(f"exec in {life.name} said {said.status} {said.body!r}")
        told = self.engine.api("GET", f"/exec/{made.json['Id']}/json").json
        if (told["Running"], told["ExitCode"]) != (False, EXEC_CODE):
            raise Wrong(f"exec in {life.name} is {told['Running']}, {told['ExitCode']}")

    def _logs(self, life: Life) -> None:
        lines = unframe(self.engine.api("GET", f"/containers/{life.name}/logs?stdout=1").body).decode().splitlines()
        if wrong := count_faults(lines):
            raise Wrong(f"log of {life.name}: {wrong[0]}")

    def _copy(self, life: Life) -> None:
        content = self._random.randbytes(1000)
        if self._put(life, content) != 200:
            raise Wrong(f"cannot copy into {life.name}")
        found = self.engine.api("GET", f"/containers/{life.name}/archive?path=/tmp/thing")
        with tarfile.open(fileobj=io.BytesIO(found.body)) as tar:
            member = tar.extractfile("thing")
            if member is None or member.read() != content:
                raise Wrong(f"what was copied into {life.name} is not what came out")

    def _put(self, life: Life, content: bytes) -> int:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            about = tarfile.TarInfo("thing")
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
        done = self.engine.put(f"/containers/{life.name}/archive?path={quote('/tmp')}", archive.getvalue())
        return done.status

    def _plug(self, life: Life) -> None:
        verb = "disconnect" if "side" in life.networks else "connect"
        self._must(self.engine.api("POST", f"/networks/side/{verb}", {"Container": life.name}), 200)
        life.networks ^= {"side"}
        told = self.engine.api("GET", f"/containers/{life.name}/json").json["NetworkSettings"]["Networks"]
        if ("side" in told) is not ("side" in life.networks):
            raise Wrong(f"{life.name} is on {sorted(told)}")

    def _crash(self, life: Life) -> None:
        """Its process dies of itself, behind the engine's back."""
        before = self._running(life)
        os.kill(before["Pid"], signal.SIGKILL)
        life.state, life.code = State.EXITED, KILL_CODE
        if life.restarts_itself:
            life.state = State.RUNNING
            deadline = time.monotonic() + SETTLE_SECONDS
            while self.engine.api("GET", f"/containers/{life.name}/json").json["State"]["Pid"] in (0, before["Pid"]):
                if time.monotonic() > deadline:
                    raise Wrong(f"{life.name} does not come back")
                time.sleep(0.02)

    def _running(self, life: Life) -> dict[str, Any]:
        """Its state, once it has a process: a policy may be about to start it again."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            state: dict[str, Any] = self.engine.api("GET", f"/containers/{life.name}/json").json["State"]
            if state["Pid"]:
                return state
            if time.monotonic() > deadline:
                raise Wrong(f"{life.name} has no process: {state}")
            time.sleep(0.02)

    def _fleeting(self, life: Life) -> None:
        """Another container that removes itself."""
        self._number += 1
        body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"AutoRemove": True}}
        made = self._must(self.engine.api("POST", f"/containers/create?name=f{self._number:04d}", body), 201)
        self._must(self.engine.api("POST", f"/containers/{made.json['Id']}/start"), 204)
        self._settled(Life(name=f"f{self._number:04d}"), {State.GONE})

    # --- deaths

    def _death(self) -> None:
        living = [life for name, life in sorted(self._lives.items()) if life.alive]
        if living and self._random.random() < 0.5:
            life = self._random.choice(living)
            self._note(f"death of the shim of {life.name}")
            self._kill_shim(life)
            return
        victims = self._random.choice(_CUTTERS)
        self._note(f"death of {' '.join(victims)}")
        self.engine.kill(*victims)
        self.engine.start()

    def _kill_shim(self, life: Life) -> None:
        """And wait for its successor: an exec tells."""
        path = self.engine.instance.container_data(life.id) / "shim.json"
        pid = json.loads(path.read_bytes())["pid"]
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            with contextlib.suppress(FileNotFoundError):
                if json.loads(path.read_bytes())["pid"] != pid:
                    return
            if time.monotonic() > deadline:
                raise Wrong(f"nobody took over from the shim of {life.name}")
            time.sleep(0.01)

    # --- looking at everything

    def _look(self) -> None:
        """List, doctor, logs of the services, events: all must agree with the model."""
        for life in self._lives.values():
            self._agree(life)
        listed = {each["Id"] for each in self.engine.api("GET", "/containers/json?all=1").json}
        if listed != {life.id for life in self._lives.values()}:
            raise Wrong(f"listed are {sorted(listed)}, known {sorted(life.id for life in self._lives.values())}")
        for life in self._lives.values():
            self._logs(life)
        self._examine()
        if traces := self.engine.journals.tracebacks():
            raise Wrong("\n".join(traces))
        self._hear()

    def _examine(self) -> None:
        """The doctor finds nothing; what is being taken away in the background gets a while."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            lines: list[str] = []
            doctor(self.engine.settings, as_json=True, say=lines.append)
            found = [
                each
                for each in json.loads(lines[0])["findings"]
                if each["area"] == "instance" and each["level"] != "ok"
            ]
            if not found:
                return
            if time.monotonic() > deadline:
                raise Wrong("\n".join(f"{each['subject']}: {each['text']}" for each in found))

    def _hear(self) -> None:
        """Every container's events so far are those of a life that can be."""
        until = time.time_ns()
        asked = f"/events?since={_moment(self._heard)}&until={_moment(until)}&filters={_CONTAINERS}"
        seen = {json.dumps(event, sort_keys=True) for events in self._events.values() for event in events}
        for line in call(self.engine.instance.docker_socket, "GET", asked).body.splitlines():
            event = json.loads(line)
            if json.dumps(event, sort_keys=True) not in seen:
                self._events[event["Actor"]["ID"]].append(event)
        self._heard = until
        for container, events in self._events.items():
            if wrong := faults(events, CODES):
                story = ", ".join(str(event["Action"]) for event in events)
                raise Wrong(f"events of {container[:12]}: {wrong[0]} in {story}")
            starts = sum(event["Action"] == "start" for event in events)
            ends = sum(event["Action"] == "die" for event in events)
            alive = any(life.id == container and life.alive for life in self._lives.values())
            if starts - ends != alive:
                raise Wrong(f"events of {container[:12]}: {starts} starts, {ends} ends, alive: {alive}")

    def _must(self, answer: Answer, status: int) -> Answer:
        if answer.status != status:
            raise Wrong(f"{answer.status} instead of {status}: {answer.body!r}")
        return answer


def _moment(at: int) -> str:
    return f"{at // 10**9}.{at % 10**9:09d}"


_ANYTIME = ("rename", "logs", "copy", "plug", "remove", "fleeting")
_OPERATIONS = {
    State.CREATED: ("start", "start", "start", *_ANYTIME),
    State.EXITED: ("start", "start", "start", *_ANYTIME),
    State.RUNNING: ("stop", "kill", "restart", "pause", "exec", "exec", "exec", "crash", *_ANYTIME),
    State.PAUSED: ("unpause", "unpause", "logs", "rename", "stop", "remove"),
}
assert set(_DAEMONS) < set(SERVICES)
