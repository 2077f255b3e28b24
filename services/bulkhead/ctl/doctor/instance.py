"""The installation: services, sockets, containers against kernel facts, shims' versions, operations that hang, disk."""

from __future__ import annotations

import asyncio
import grp
import json
import os
import stat
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bulkhead.ctl import health
from bulkhead.ctl.daemons import Daemons
from bulkhead.ctl.doctor.findings import Area, Finding, Level, ok
from bulkhead.ctl.doctor.orphans import BEING_MADE, orphans
from bulkhead.ctl.doctor.records import Record, Records, read
from bulkhead.ctl.engine_client import call
from bulkhead.errors import Conflict, Internal, Unavailable
from bulkhead.linux import process
from bulkhead.model.instance import SERVICES, Instance
from bulkhead.model.shim_protocol import check_protocol, protocol_of
from bulkhead.settings import Settings

# Long enough for what is being made or taken away to be done with.
SECOND_LOOK = 1.0
# An operation without a deadline of its own that takes longer is looked at by a person.
STUCK_SECONDS = 300.0
# These last as long as somebody listens.
_ENDLESS = ("attach", "logs", "events", "wait", "stats", "stream", "watch", "follow")
_SOCKETS = {"docker.sock": 0o660, "manager.sock": 0o600, "supervisor.sock": 0o600, "registry.sock": 0o600}
_DIRECTORIES = {"log": 0o700}


def examine(settings: Settings) -> list[Finding]:
    """Everything about the installation. Needs root."""
    instance = settings.instance
    if not instance.run.exists() and not instance.data.exists():
        return [ok(Area.INSTANCE, "installation", f"never started: neither {instance.run} nor {instance.data} exist")]
    found = [*_services(settings), *_modes(instance)]
    try:
        known = read(instance)
    except Internal as error:
        # Without records everything would look like an orphan: nothing of it is touched.
        advice = "restore it from a backup, or start the Bulkhead that wrote it; nothing was compared with it"
        return [*found, _fail("records", str(error), advice)]
    found += [ok(Area.INSTANCE, "records", f"{len(known.containers)} containers, {len(known.networks)} networks")]
    managed = Daemons(settings).pid("manager") is not None
    suspicious = _look(instance, known, managed=managed)
    if suspicious and managed:
        time.sleep(SECOND_LOOK)
        twice = {each.key for each in suspicious}
        suspicious = [each for each in _look(instance, read(instance), managed=True) if each.key in twice]
    found += suspicious or [
        ok(Area.INSTANCE, "orphans", "none: every shim, mount, interface and directory has its record")
    ]
    return [*found, *_shims(instance, known), *_operations(instance)]


def _look(instance: Instance, known: Records, *, managed: bool) -> list[Finding]:
    """What may be true for a moment only."""
    lost = [
        *orphans(instance, known, being_made=BEING_MADE if managed else 0.0),
        *_containers(instance, known, managed),
    ]
    if managed and known.under_way:
        # What is being made may look like an orphan; who makes it will be done, or undone, soon.
        lost = [replace(each, mend=None, advice="operations are under way: ask again") for each in lost]
    return lost


def _fail(subject: str, text: str, advice: str, level: Level = Level.FAIL) -> Finding:
    return Finding(area=Area.INSTANCE, level=level, subject=subject, text=text, advice=advice)


def _services(settings: Settings) -> Iterator[Finding]:
    daemons = Daemons(settings)
    pids = {service: daemons.pid(service) for service in SERVICES}
    if not any(pids.values()):
        yield _fail("services", "none runs; containers do not need them", "bulkhead up starts them", Level.WARN)
        return
    for service, problem in asyncio.run(health.probe_all(settings.instance)).items():
        pid = pids[service]
        if pid is None:
            yield _fail(service, "it does not run", f"bulkhead restart {service}")
        elif problem is not None:
            yield _fail(service, f"pid {pid}: {problem}", f"bulkhead logs {service}; bulkhead restart {service}")
        else:
            yield ok(Area.INSTANCE, service, f"ready, pid {pid}")


def _modes(instance: Instance) -> Iterator[Finding]:
    """Whoever may connect to a socket owns the machine."""
    wanted = {instance.run: 0o711, instance.data: 0o700}
    wanted |= {instance.run / name: mode for name, mode in (_SOCKETS | _DIRECTORIES).items()}
    wrong = 0
    for path, mode in wanted.items():
        try:
            found = path.lstat()
        except FileNotFoundError:
            continue
        if stat.S_IMODE(found.st_mode) & ~mode or found.st_uid != 0:
            wrong += 1
            yield Finding(
                area=Area.INSTANCE,
                level=Level.FAIL,
                subject=f"mode of {path}",
                text=f"{stat.S_IMODE(found.st_mode):04o} of user {found.st_uid}: others get at the engine",
                advice=f"bulkhead doctor --repair makes it {mode:04o} of root",
                mend=partial(_make_private, path, mode),
            )
    if not wrong:
        yield ok(Area.INSTANCE, "modes", f"sockets and directories are closed to others ({_group(instance)})")


def _make_private(path: Path, mode: int) -> None:
    if path.is_symlink():
        raise Internal(f"cannot change {path}: it is a symbolic link")
    os.chown(path, 0, -1)
    path.chmod(mode)


def _group(instance: Instance) -> str:
    try:
        number = instance.docker_socket.stat().st_gid
        return f"docker.sock is group {grp.getgrgid(number).gr_name}'s"
    except (OSError, KeyError):
        return "docker.sock is root's"


def _containers(instance: Instance, known: Records, managed: bool) -> Iterator[Finding]:
    for record in known.alive:
        name, key = f"container {record.get('name')}", str(record.get("id"))
        pid, started = int(record.get("pid") or 0), record.get("pid_start_time")
        if process.start_time(pid) != started:
            advice = "bulkhead restart manager" if managed else "bulkhead up finishes it with the code on record"
            text = f"on record it runs as pid {pid}, which is gone"
            yield _fail(name, text, advice, Level.FAIL if managed else Level.WARN)
        elif _shim_of(instance, key) is None:
            advice = "bulkhead restart manager" if managed else "bulkhead up gives it a new one"
            text = "it runs without a shim: no exec, no attach; its output waits"
            yield _fail(name, text, advice, Level.FAIL if managed else Level.WARN)
        if not instance.container_data(key).is_dir():
            yield _fail(name, f"{instance.container_data(key)} is gone", f"docker rm -f {record.get('name')}")


def _shim_of(instance: Instance, container_id: str) -> dict[str, Any] | None:
    """What a container's shim says of itself, None when there is none alive."""
    try:
        told = json.loads((instance.container_data(container_id) / "shim.json").read_bytes())
        pid, started = told["pid"], told["start_time"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return told if process.start_time(pid) == started else None


def _shims(instance: Instance, known: Records) -> Iterator[Finding]:
    """Which protocols the live ones speak: a manager drives its own and the one before."""
    counts: Counter[str] = Counter()
    for record in known.alive:
        told = _shim_of(instance, str(record.get("id")))
        if told is None:
            continue
        counts[f"protocol {protocol_of(told)} (Bulkhead {told.get('version', 'without a number')})"] += 1
        try:
            check_protocol(str(record.get("id")), told)
        except Conflict as error:
            yield _fail(f"container {record.get('name')}", str(error), "start the Bulkhead that started it")
    if counts:
        yield ok(Area.INSTANCE, "shims", ", ".join(f"{count} of {what}" for what, count in sorted(counts.items())))


def _operations(instance: Instance) -> Iterator[Finding]:
    try:
        answer = call(instance.docker_socket, "GET", "/debug/ops", seconds=health.PROBE_SECONDS)
    except Unavailable:
        return
    rows = (answer.json or {}).get("Operations") or []
    stuck = [row for row in rows if _is_stuck(row)]
    for row in stuck:
        yield _fail(
            f"operation {row['Operation']} {row['Object']}".rstrip(),
            f"{row['Service']} is at it for {row['AgeSeconds']:.0f} s, in phase {row['Phase'] or '-'}",
            f"bulkhead logs {row['Service']} (request {row['RequestId'] or '-'}); bulkhead restart {row['Service']}",
        )
    if not stuck:
        yield ok(Area.INSTANCE, "operations", f"{len(rows)} under way, none stuck")


def _is_stuck(row: Record) -> bool:
    age = float(row.get("AgeSeconds") or 0)
    if any(word in str(row.get("Operation")).lower() for word in _ENDLESS):
        return False
    deadline = row.get("DeadlineSeconds")
    return age > (2 * float(deadline) if deadline else STUCK_SECONDS)
