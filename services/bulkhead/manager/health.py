"""What a container's health means to its record and to the journal. The probing itself is the shim's.

Before each start the shim's orders are written beside the bundle (`healthcheck.json`); afterwards `health.json` says
what came of them, also of what happened while the manager was away.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec

from bulkhead.errors import Internal, ResourceExhausted
from bulkhead.linux import atomicfile
from bulkhead.manager.announcements import of_container
from bulkhead.manager.execs import exec_process
from bulkhead.model.container import Container, ContainerSpec
from bulkhead.model.events import Event
from bulkhead.model.execs import ExecSpec
from bulkhead.model.health import Health, HealthChange, ProbeResult, decode_health

CHECK, RECORD = "healthcheck.json", "health.json"
_SHELL = ("/bin/sh", "-c")
_LIMIT = 4 << 20
_FULL = frozenset((28, 122))  # ENOSPC, EDQUOT


def probe_command(spec: ContainerSpec) -> tuple[str, ...]:
    """What is run in the container; empty when nothing is to be checked."""
    kind, *words = spec.healthcheck.test if spec.healthcheck is not None else ("NONE",)
    if kind == "CMD":
        return tuple(words)
    if kind == "CMD-SHELL" and words:
        return (*(spec.shell or _SHELL), words[0])
    return ()


def write_check(place: Path, container: Container) -> None:
    """Tell the shim of the next run how to probe, or that there is nothing to. Blocking."""
    command, check = probe_command(container.spec), container.spec.healthcheck
    try:
        if not command or check is None:
            atomicfile.remove(f"{place}/{CHECK}", durable=False)
            return
        orders = {
            "process": exec_process(container, ExecSpec(command=command)),
            "interval": check.interval,
            "timeout": check.timeout,
            "start_period": check.start_period,
            "start_interval": check.start_interval,
            "retries": check.retries,
        }
        atomicfile.write(place / CHECK, msgspec.json.encode(orders), durable=False)
    except OSError as error:
        kind = ResourceExhausted if error.errno in _FULL else Internal
        raise kind(f"cannot write {place / CHECK}: {error.strerror}") from error


def initial(container: Container, started_at: int) -> Health | None:
    """At the start of a run; None without a check."""
    if not probe_command(container.spec):
        return None
    return Health(log=container.health.log if container.health else (), started_at=started_at)


def read(place: Path) -> Health | None:
    """What the shim has left, None when there is nothing that can be read."""
    try:
        return decode_health(atomicfile.read(place / RECORD, _LIMIT))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def noted(container: Container, health: Health | None) -> tuple[Container, tuple[Event, ...]]:
    """The record after the shim said `health`, and the events of what is new in it. Old news changes nothing."""
    before = container.health
    if health is None or before is None or health.started_at != before.started_at or health.revision <= before.revision:
        return container, ()
    updated = replace(container, health=replace(health, changes=()))
    fresh = health.log[-(health.revision - before.revision) :]
    events = [event for result in fresh for event in _of_probe(updated, result)]
    changes = [change for change in health.changes if change.revision > before.revision]
    if not changes and health.status != before.status:
        # Probed again after a pause.
        changes = [HealthChange(revision=health.revision, status=health.status, at=health.log[-1].end)]
    events += [replace(of_container(updated, f"health_status: {each.status}"), time=each.at) for each in changes]
    return updated, tuple(sorted(events, key=lambda event: event.time))


def _of_probe(container: Container, result: ProbeResult) -> list[Event]:
    """A probe is an exec to those who watch events."""
    shown, about = " ".join(probe_command(container.spec)), {"execID": result.exec_id}
    return [
        replace(of_container(container, f"exec_create: {shown}", about), time=result.start),
        replace(of_container(container, f"exec_start: {shown}", about), time=result.start),
        replace(of_container(container, "exec_die", about | {"exitCode": str(result.exit_code)}), time=result.end),
    ]
