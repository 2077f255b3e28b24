"""Fuzz of every endpoint of the Engine API by its own description: `python -m tests.fuzz.api SECONDS`.

schemathesis makes requests that follow the description and ones that do not; half of them name things that exist.
Nothing may answer 500, hang, leave a traceback in a log, end a daemon or leave anything behind.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis.core.result import Ok

from tests.support import leaks
from tests.support.api_description import SPEC, judge
from tests.support.engine import Engine, private_engine

EXAMPLES = 6  # of one operation before the next has its turn
ANSWER_SECONDS = 15.0
STREAM_SECONDS = 0.3
# On a busy machine the first requests may take as long as all were given.
MORE_SECONDS = 80.0
# These answer when something happens, or for as long as the client stays.
_PATIENT = ("/wait", "/stop", "/restart", "/attach", "/attach/ws", "/logs", "/stats", "/events", "/start")
# Answers that dockerd gives with this status, which clients know by their texts.
_DOCKER_SAYS_500 = (b"is not paused", b"Cannot update container")
_MARKS = (b"Traceback", b'"event":"request failed"', b'"event":"call failed"', b'"event":"operation failed"')


@dataclass(slots=True)
class Findings:
    """What was seen."""

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)  # the first of its kind

    def fault(self, kind: str, detail: str) -> None:
        self.faults.setdefault(kind, detail)


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@schemathesis.serializer("application/x-tar", "application/octet-stream")
def _archive(_context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value, default=str).encode()


def fuzz(engine: Engine, seconds: float, seed: int) -> Findings:
    """Send requests for `seconds`, or for some more until one of them was answered well."""
    findings, chance = Findings(), random.Random(seed)
    operations = list(_operations())
    chance.shuffle(operations)
    begun = time.monotonic()

    def over() -> bool:
        passed = time.monotonic() - begun
        return passed >= (seconds if findings.statuses[200] else seconds + MORE_SECONDS)

    turn = 0
    while not over():
        for operation in operations:
            _things(engine)
            _some(engine, operation, chance, findings, over, seed + turn)
            turn += 1
            if over():
                break
    return findings


def _operations() -> Iterator[Any]:
    schema = schemathesis.openapi.from_path(str(SPEC))
    for result in schema.get_all_operations():
        if not isinstance(result, Ok):
            continue
        operation = result.ok()
        if not operation.path.startswith(("/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs")):
            yield operation


def _things(engine: Engine) -> None:
    """What the requests may name: they may have removed it."""
    if engine.api("GET", "/containers/fuzz/json").status != 200:
        engine.pulled("busybox")
        body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "OpenStdin": True}
        engine.api("POST", "/containers/create?name=fuzz", body)
        engine.api("POST", "/containers/fuzz/start")


def _some(
    engine: Engine, operation: Any, chance: random.Random, findings: Findings, over: Callable[[], bool], seed: int
) -> None:
    modes = schemathesis.GenerationMode
    mode = chance.choice((modes.POSITIVE, modes.NEGATIVE))

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        if not over():
            _send(engine, case, chance, findings)

    try:
        send()
    except (hypothesis.errors.Unsatisfiable, hypothesis.errors.HypothesisException):
        return  # an operation without parameters has no wrong requests


def _send(engine: Engine, case: Any, chance: random.Random, findings: Findings) -> None:
    path, body, headers = _request(case, chance)
    patient = case.operation.path.endswith(_PATIENT)
    connection = _Unix(engine.instance.docker_socket, STREAM_SECONDS if patient else ANSWER_SECONDS)
    findings.sent += 1
    name = f"{case.method} {case.operation.path}"
    try:
        connection.request(case.method, path, body, headers)
        answer = connection.getresponse()
        data = answer.read(1 << 20) if not patient or answer.length is not None else b""
    except TimeoutError:
        if not patient:
            findings.fault(f"hangs: {name}", f"{path} {body!r}")
        return
    except (OSError, http.client.HTTPException, UnicodeError, ValueError) as error:
        if isinstance(error, ConnectionRefusedError):
            findings.fault(f"refused: {name}", str(error))
        return  # what http.client itself will not send, or a stream
    finally:
        connection.close()
    findings.statuses[answer.status] += 1
    if answer.status >= 500 and answer.status not in (501, 503) and not any(each in data for each in _DOCKER_SAYS_500):
        findings.fault(f"{answer.status}: {name}: {data[:80]!r}", f"{path} {body!r} -> {data!r}")
    if answer.status < 300 and answer.getheader("Content-Type") == "application/json" and data:
        _judge(case, answer.status, data, findings, name)


def _judge(case: Any, status: int, data: bytes, findings: Findings, name: str) -> None:
    try:
        judge(case.method, case.operation.path, status, json.loads(data))
    except json.JSONDecodeError:
        return  # a stream of documents
    except AssertionError as error:
        findings.fault(f"not as described: {name}", str(error)[:400])


def _request(case: Any, chance: random.Random) -> tuple[str, bytes | None, dict[str, str]]:
    path = case.operation.path
    for key, value in (case.path_parameters or {}).items():
        real = "busybox" if path.startswith(("/images", "/distribution")) else _real(path)
        shown = real if chance.random() < 0.6 else str(value)
        path = path.replace("{" + key + "}", quote(shown, safe="", errors="replace"))
    query = {key: value for key, value in (case.query or {}).items() if value is not None}
    if query:
        path += "?" + urlencode(query, doseq=True, errors="replace")
    headers = {"Content-Type": "application/json"} | {
        key: str(value).encode("ascii", "replace").decode().replace("\n", " ").replace("\r", " ")
        for key, value in (case.headers or {}).items()
        if key.lower() not in ("content-length", "transfer-encoding", "connection", "upgrade")
    }
    return path, _body(case, chance), headers


def _body(case: Any, chance: random.Random) -> bytes | None:
    body = case.body
    if body is None or type(body).__name__ == "NotSet":
        return None
    if isinstance(body, bytes):
        return body
    if isinstance(body, dict) and case.operation.path == "/containers/create" and chance.random() < 0.7:
        body = {**body, "Image": "busybox"}
    try:
        return json.dumps(body, default=str).encode(errors="replace")
    except (TypeError, ValueError):
        return str(body).encode(errors="replace")


def _real(path: str) -> str:
    return "bridge" if path.startswith("/networks") else "fuzz"


def tracebacks(engine: Engine) -> list[str]:
    """Lines of the daemons' logs that tell of a fault nobody expected."""
    logs = sorted((engine.instance.run / "log").glob("**/*"))
    lines = [line for log in logs if log.is_file() for line in log.read_bytes().splitlines()]
    return [line.decode(errors="replace")[:3000] for line in lines if any(mark in line for mark in _MARKS)]


def examine(engine: Engine, seconds: float, seed: int) -> Findings:
    """Fuzz, then look at what it left."""
    pids = {service: engine.pid(service) for service in ("api", "manager", "supervisor", "registry")}
    before = leaks.facts(engine.instance)
    findings = fuzz(engine, seconds, seed)
    for line in tracebacks(engine):
        findings.fault("traceback", line)
    now = {service: engine.pid(service) for service in pids}
    if now != pids:
        findings.fault("a daemon died", f"{pids} -> {now}")
    engine.remove_containers()
    for line in leaks.left_after(engine.instance, before):
        findings.fault(f"left behind: {line}", line)
    return findings


def main(seconds: float, seed: int) -> int:
    with private_engine() as engine:
        engine.start()
        engine.seed()
        engine.pulled("busybox")
        findings = examine(engine, seconds, seed)
    print(f"{findings.sent} requests, statuses {dict(sorted(findings.statuses.items()))}, seed {seed}")
    for kind, detail in findings.faults.items():
        print(f"\n--- {kind}\n{detail}")
    return 1 if findings.faults else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())))
