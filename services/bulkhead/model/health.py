"""A container's health: what a probe's result makes of it (Docker's rules, moby daemon/health.go). Pure.

A container is `starting` until a probe succeeds or enough have failed in a row. Failures within the start period do not
count before the first success. Times are Unix nanoseconds, durations nanoseconds.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"
KEPT_RESULTS = 5
KEPT_CHANGES = 64
LONGEST_OUTPUT = 4096
FAILED = -1
_SECOND = 1_000_000_000
_INTERVAL, _TIMEOUT, _START_INTERVAL, _RETRIES = 30 * _SECOND, 30 * _SECOND, 5 * _SECOND, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """One probe; exit code 0 is healthy, -1 a probe that could not run or took too long."""

    exec_id: str = ""
    start: int = 0
    end: int = 0
    exit_code: int = 0
    output: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthChange:
    """The status became `status` at `revision`."""

    revision: int
    status: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What is known of the run that began at `started_at`; each probe makes a new revision.

    `log` holds the latest results of this run and, as in Docker, of the runs before it.
    """

    status: str = STARTING
    failing_streak: int = 0
    log: tuple[ProbeResult, ...] = ()
    revision: int = 0
    changes: tuple[HealthChange, ...] = ()
    started_at: int = 0

    def stopped(self) -> Health:
        """After the run: Docker calls a container unhealthy that nobody probes any more."""
        return replace(self, status=UNHEALTHY, changes=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When to probe, and how patiently; 0 = Docker's default."""

    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0

    @property
    def patience(self) -> int:
        """How long a probe may take."""
        return self.timeout or _TIMEOUT

    def pause(self, health: Health, now: int) -> int:
        """How long to wait for the next probe."""
        starting = health.status == STARTING and now - health.started_at < self.start_period
        return (self.start_interval or _START_INTERVAL) if starting else (self.interval or _INTERVAL)


def judged(health: Health, result: ProbeResult, schedule: Schedule) -> Health:
    """The health after a probe."""
    status, streak = health.status, health.failing_streak
    if result.exit_code == 0:
        status, streak = HEALTHY, 0
    elif status != STARTING or result.start - health.started_at >= schedule.start_period:
        streak += 1
        if streak >= (schedule.retries or _RETRIES):
            status = UNHEALTHY
    revision, changes = health.revision + 1, health.changes
    if status != health.status:
        changes = (*changes, HealthChange(revision=revision, status=status, at=result.end))[-KEPT_CHANGES:]
    return replace(
        health,
        status=status,
        failing_streak=streak,
        log=(*health.log, result)[-KEPT_RESULTS:],
        revision=revision,
        changes=changes,
    )


def shown_duration(nanoseconds: int) -> str:
    """As Go prints a duration: 1s, 1m30s, 250ms, 1.5s."""
    if nanoseconds < _SECOND:
        return f"{nanoseconds / 1_000_000:g}ms"
    minutes, rest = divmod(nanoseconds, 60 * _SECOND)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest / _SECOND:.9f}".rstrip("0").rstrip(".") + "s"
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + seconds


def encode_health(health: Health) -> bytes:
    """As a shim leaves it on disk."""
    return json.dumps(asdict(health), separators=(",", ":")).encode()


def decode_health(text: bytes) -> Health:
    """Raises ValueError, TypeError or KeyError when it is no record."""
    told = json.loads(text)
    log = tuple(ProbeResult(**each) for each in told.pop("log"))
    changes = tuple(HealthChange(**each) for each in told.pop("changes"))
    return replace(Health(**told), log=log, changes=changes)
