"""Whether, and after how long, a container that has exited is started again.

Docker's rule: 100 ms, doubled at each restart, at most a minute; a run of ten seconds or more begins anew
(engine-api.md 3.6).
"""

from __future__ import annotations

from bulkhead.model.container import RestartPolicy

FIRST_DELAY_MS = 100
LONGEST_DELAY_MS = 60_000
GOOD_RUN_MS = 10_000


def delay_after_exit(
    policy: RestartPolicy,
    *,
    exit_code: int,
    stopped_by_user: bool,
    restart_count: int,
    ran_ms: int,
    last_delay_ms: int,
) -> int | None:
    """Milliseconds until the next start, or None: it stays exited.

    `restart_count` is how often the policy has restarted it since a user last started it; `last_delay_ms` what
    this function said the last time, 0 = never.
    """
    if stopped_by_user or not _wants_restart(policy, exit_code, restart_count):
        return None
    if last_delay_ms <= 0 or ran_ms >= GOOD_RUN_MS:
        return FIRST_DELAY_MS
    return min(last_delay_ms * 2, LONGEST_DELAY_MS)


def starts_at_boot(policy: RestartPolicy, *, was_alive: bool, stopped_by_user: bool) -> bool:
    """Whether a container is started when the machine has come up again.

    `always` and `unless-stopped` differ only here: the former ignores that a user had stopped it.
    """
    if policy.name == "always":
        return was_alive or stopped_by_user
    return policy.name == "unless-stopped" and was_alive and not stopped_by_user


def _wants_restart(policy: RestartPolicy, exit_code: int, restart_count: int) -> bool:
    if policy.name in ("always", "unless-stopped"):
        return True
    if policy.name != "on-failure" or exit_code == 0:
        return False
    return policy.maximum_retry_count == 0 or restart_count < policy.maximum_retry_count
