"""Docker's rules for the status of a container (moby daemon/health.go): a wrong one restarts services for nothing."""

from __future__ import annotations

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.model.directives import ACTIONS, dependencies, directives
from bulkhead.model.health import (
    KEPT_RESULTS,
    Health,
    ProbeResult,
    Schedule,
    decode_health,
    encode_health,
    judged,
    shown_duration,
)

SECOND = 1_000_000_000


def after(*codes: int, start_period: int = 0, retries: int = 0) -> Health:
    """Probes at 1, 2, 3... seconds of a run that began at 0."""
    health = Health()
    for number, code in enumerate(codes, 1):
        result = ProbeResult(start=number * SECOND, end=number * SECOND, exit_code=code)
        health = judged(health, result, Schedule(start_period=start_period * SECOND, retries=retries))
    return health


@pytest.mark.parametrize(
    ("codes", "status", "streak"),
    [
        ((), "starting", 0),
        ((0,), "healthy", 0),
        ((1, 1), "starting", 2),
        ((1, 1, 1), "unhealthy", 3),
        ((0, 1, 1), "healthy", 2),
        ((0, 1, -1, 2), "unhealthy", 3),
        ((1, 1, 1, 0), "healthy", 0),
    ],
)
def test_the_third_failure_in_a_row_is_one_too_many(codes: tuple[int, ...], status: str, streak: int) -> None:
    health = after(*codes)
    assert (health.status, health.failing_streak, health.revision) == (status, streak, len(codes))


def test_failures_in_the_start_period_do_not_count_until_a_success() -> None:
    assert after(1, 1, 1, 1, start_period=5).failing_streak == 0
    assert after(1, 1, 1, 1, start_period=3, retries=2).status == "unhealthy"
    assert after(0, 1, 1, start_period=60, retries=2).status == "unhealthy"


def test_the_latest_results_and_every_change_are_kept() -> None:
    health = after(0, 1, 1, 1, 0, 0)
    assert [each.exit_code for each in health.log] == [1, 1, 1, 0, 0]
    assert len(health.log) == KEPT_RESULTS
    assert [(each.revision, each.status) for each in health.changes] == [
        (1, "healthy"),
        (4, "unhealthy"),
        (5, "healthy"),
    ]
    assert decode_health(encode_health(health)) == health


def test_probes_come_quicker_while_starting() -> None:
    schedule = Schedule(interval=60 * SECOND, start_period=10 * SECOND, start_interval=SECOND)
    assert schedule.pause(Health(), 9 * SECOND) == SECOND
    assert schedule.pause(Health(), 11 * SECOND) == 60 * SECOND
    assert schedule.pause(Health(status="healthy"), 9 * SECOND) == 60 * SECOND
    assert Schedule().pause(Health(), 0) == 30 * SECOND


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (SECOND, "1s"),
        (90 * SECOND, "1m30s"),
        (SECOND // 4, "250ms"),
        (3 * SECOND // 2, "1.5s"),
        (3600 * SECOND, "1h0m0s"),
    ],
)
def test_durations_as_go_prints_them(nanoseconds: int, text: str) -> None:
    assert shown_duration(nanoseconds) == text


def test_labels_of_the_engine_are_checked() -> None:
    assert directives({"x": "y", "io.bulkhead.health.action": "stop"}) == {"io.bulkhead.health.action": "stop"}
    assert set(ACTIONS) == {"restart", "stop", "kill"}
    for labels in ({"io.bulkhead.health.action": "rm"}, {"io.bulkhead.health.budget": "0"}):
        with pytest.raises(InvalidArgument, match="invalid label"):
            directives(labels)


def test_dependencies_of_compose() -> None:
    told = {"com.docker.compose.depends_on": "db:service_healthy:true,cache:service_started:false"}
    assert dependencies(told) == ("db", "cache")
    assert dependencies({}) == ()
