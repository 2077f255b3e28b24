"""The restart policy as a table."""

from __future__ import annotations

import pytest

from bulkhead.model.container import RestartPolicy
from bulkhead.model.restart import delay_after_exit, starts_at_boot


def _delay(name: str, maximum: int = 0, **facts: int | bool) -> int | None:
    told = {"exit_code": 1, "stopped_by_user": False, "restart_count": 0, "ran_ms": 10, "last_delay_ms": 0, **facts}
    return delay_after_exit(RestartPolicy(name=name, maximum_retry_count=maximum), **told)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["no", ""])
def test_no_policy_never_restarts(name: str) -> None:
    assert _delay(name) is None


@pytest.mark.parametrize("name", ["always", "unless-stopped"])
@pytest.mark.parametrize("exit_code", [0, 1, 137])
def test_always_restarts_whatever_the_code(name: str, exit_code: int) -> None:
    assert _delay(name, exit_code=exit_code) == 100


@pytest.mark.parametrize("name", ["always", "unless-stopped", "on-failure"])
def test_manual_stop_ends_every_policy(name: str) -> None:
    assert _delay(name, stopped_by_user=True) is None


def test_on_failure_counts_and_looks_at_the_code() -> None:
    assert _delay("on-failure", exit_code=0) is None
    assert _delay("on-failure", restart_count=10_000) == 100
    assert _delay("on-failure", 3, restart_count=2) == 100
    assert _delay("on-failure", 3, restart_count=3) is None


def test_delay_doubles_to_a_minute_and_begins_anew_after_a_good_run() -> None:
    delays = [0]
    for _ in range(12):
        delays.append(_delay("always", last_delay_ms=delays[-1]) or -1)
    assert delays[1:5] == [100, 200, 400, 800]
    assert delays[-1] == 60_000
    assert _delay("always", last_delay_ms=60_000, ran_ms=10_000) == 100
    assert _delay("always", last_delay_ms=60_000, ran_ms=9_999) == 60_000


@pytest.mark.parametrize(
    ("name", "alive", "stopped", "expected"),
    [
        ("always", True, False, True),
        ("always", False, True, True),
        ("always", False, False, False),
        ("unless-stopped", True, False, True),
        ("unless-stopped", True, True, False),
        ("unless-stopped", False, True, False),
        ("on-failure", True, False, False),
        ("no", True, False, False),
    ],
)
def test_boot(name: str, alive: bool, stopped: bool, expected: bool) -> None:
    assert starts_at_boot(RestartPolicy(name=name), was_alive=alive, stopped_by_user=stopped) is expected
