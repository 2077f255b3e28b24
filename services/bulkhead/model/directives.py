"""Labels that steer the engine. Only those of a create request do: an image must not decide over its host.

io.bulkhead.health.action     restart, stop or kill a container that becomes unhealthy
io.bulkhead.health.budget     how often in an hour at most
com.docker.compose.depends_on, .project, .service     the order of starts at boot
"""

from __future__ import annotations

from collections.abc import Mapping

from bulkhead.errors import InvalidArgument

HEALTH_ACTION = "io.bulkhead.health.action"
HEALTH_BUDGET = "io.bulkhead.health.budget"
DEPENDS_ON = "com.docker.compose.depends_on"
PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
ACTIONS = ("restart", "stop", "kill")
_MOST = 1000


def directives(labels: Mapping[str, str]) -> dict[str, str]:
    """Those of a create request's labels that steer. Raises InvalidArgument for one that makes no sense."""
    found = {name: labels[name] for name in (HEALTH_ACTION, HEALTH_BUDGET) if name in labels}
    if (action := found.get(HEALTH_ACTION)) is not None and action not in ACTIONS:
        raise InvalidArgument(f"invalid label {HEALTH_ACTION}={action}: it must be one of {', '.join(ACTIONS)}")
    if (budget := found.get(HEALTH_BUDGET)) is not None and not (budget.isdecimal() and 1 <= int(budget) <= _MOST):
        raise InvalidArgument(f"invalid label {HEALTH_BUDGET}={budget}: it must be a number from 1 to {_MOST}")
    return found | {name: labels[name] for name in (DEPENDS_ON, PROJECT, SERVICE) if name in labels}


def dependencies(told: Mapping[str, str]) -> tuple[str, ...]:
    """The services that a container of compose waits for: `db:service_started:false,cache:...`."""
    entries = told.get(DEPENDS_ON, "").split(",")
    return tuple(name for entry in entries if (name := entry.partition(":")[0].strip()))
