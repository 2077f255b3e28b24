"""`bulkhead failpoints`: what can be made to fail on purpose, and having it fail, in processes that run."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from bulkhead import failpoints
from bulkhead.ctl import remains
from bulkhead.ctl.daemons import Daemons
from bulkhead.errors import Conflict, DeadlineExceeded
from bulkhead.failpoints.catalogue import POINTS
from bulkhead.failpoints.grammar import parse
from bulkhead.linux import atomicfile
from bulkhead.model.instance import SERVICES, Instance
from bulkhead.settings import Settings

_HEARD_SECONDS = 5.0
_POLL_SECONDS = 0.005


def show(settings: Settings) -> int:
    """List all failpoints, with what is set."""
    place = settings.instance.run / failpoints.DIRECTORY / failpoints.SET
    found = parse(place.read_text()) if place.exists() else {}
    for name, point in POINTS.items():
        mark = "!" if name in found else " "
        print(f"{mark} {name:<28} {point.tells}{' (can fail)' if point.fails else ''}")
    return 0


def put(settings: Settings, text: str) -> int:
    """Set failpoints in place of those that are set; an empty text sets none.

    Returns when every process that runs obeys. Raises InvalidArgument, Conflict when the directory is not ours,
    DeadlineExceeded naming the pids of those that do not answer.
    """
    parse(text)
    place = _directory(settings.instance)
    # Nothing is set while the counts begin anew: what has killed one process must not kill its successor.
    late = _tell(settings, place, "") if not text or _read(place) else set()
    _empty(place)
    if text:
        late |= _tell(settings, place, text)
    else:
        # For spare shims, which look only when they are given their container.
        atomicfile.write(place / failpoints.SET, b"", durable=False)
    if late:
        raise DeadlineExceeded(f"failpoints are set, but not heard by {' '.join(map(str, sorted(late)))}")
    return 0


def _read(place: Path) -> str:
    try:
        return (place / failpoints.SET).read_text()
    except FileNotFoundError:
        return ""


def trace(instance: Instance) -> list[tuple[int, str, str]]:
    """Which failpoints did something since they were set: pid, name, action."""
    try:
        lines = (instance.run / failpoints.DIRECTORY / failpoints.TRACE).read_text().splitlines()
    except FileNotFoundError:
        return []
    return [(int(pid), name, action) for pid, name, action in (line.split() for line in lines) if name != "-"]


def _tell(settings: Settings, place: Path, text: str) -> set[int]:
    atomicfile.write(place / failpoints.SET, text.encode(), durable=False)
    with (place / failpoints.TRACE).open("a") as trace:
        before = trace.tell()
    return _heard(settings, place / failpoints.TRACE, before)


def _directory(instance: Instance) -> Path:
    place = instance.run / failpoints.DIRECTORY
    place.mkdir(mode=0o700, exist_ok=True)
    found = place.stat(follow_symlinks=False)
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise Conflict(f"cannot set failpoints: {place} is open to others")
    (place / failpoints.TRACE).touch(mode=0o600)
    return place


def _empty(place: Path) -> None:
    for old in place.iterdir():
        old.unlink(missing_ok=True)
    (place / failpoints.TRACE).touch(mode=0o600)


def _heard(settings: Settings, told: Path, before: int) -> set[int]:
    """Signal all who listen; those that have not read it in time."""
    waiting = {pid for pid in _processes(settings) if _listens(pid)}
    for pid in waiting:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR2)
    deadline = time.monotonic() + _HEARD_SECONDS
    while waiting and time.monotonic() < deadline:
        lines = told.read_text()[before:].splitlines()
        heard = {int(line.split()[0]) for line in lines if line.endswith(" - loaded")}
        waiting = {pid for pid in waiting - heard if Path(f"/proc/{pid}").exists() and not _is_stopped(pid)}
        time.sleep(_POLL_SECONDS)
    return waiting


def _processes(settings: Settings) -> set[int]:
    daemons = Daemons(settings)
    services = {pid for service in SERVICES if (pid := daemons.pid(service)) is not None}
    return services | set(remains.processes(settings.instance))


def _listens(pid: int) -> bool:
    """Whether it has a handler for the signal: without one the signal would be its end."""
    return bool(_status(pid, "SigCgt") >> (signal.SIGUSR2 - 1) & 1)


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t", "Z")
    except OSError:
        return True


def _status(pid: int, field: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1], 16) for line in lines if line.startswith(f"{field}:")), 0)
