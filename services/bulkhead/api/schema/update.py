"""The body of `POST /containers/{id}/update`: HostConfig's limits and its restart policy."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from bulkhead.api.ports.containers import Update
from bulkhead.api.schema import hostconfig as wire
from bulkhead.api.schema.create import resources_of, restart_policy_of

# Docker takes these over; the rest of what clients send with them has no effect.
_TAKEN = (
    "BlkioWeight", "CpuShares", "CpuPeriod", "CpuQuota", "CpusetCpus", "CpusetMems", "NanoCpus", "Memory", "MemorySwap",
    "MemoryReservation", "PidsLimit",
)  # fmt: skip


class UpdateBody(wire.HostConfig):
    """Unknown and immutable keys are accepted and mean nothing."""


def taken(body: UpdateBody, *, with_pids: bool = True) -> wire.HostConfig:
    """What of the body changes something: zeros and empty texts mean "as it is", but for PidsLimit (since 1.40)."""
    said = {name: value for name in _TAKEN if (value := getattr(body, name)) or (name == "PidsLimit" and value == 0)}
    if not with_pids:
        said.pop("PidsLimit", None)
    policy = body.RestartPolicy
    return wire.HostConfig(**said, RestartPolicy=policy if policy is not None and policy.Name else None)


def update_of(ref: str, host: wire.HostConfig) -> Update:
    """What the manager is asked for."""
    resources = replace(resources_of(host), memory_swap=host.MemorySwap or 0)
    if host.PidsLimit is not None and host.PidsLimit <= 0:
        resources = replace(resources, pids_limit=-1)
        host = msgspec.structs.replace(host, PidsLimit=0)
    policy = host.RestartPolicy
    return Update(
        ref=ref,
        resources=resources,
        restart_policy=restart_policy_of(policy) if policy is not None else None,
        engine_host_config=wire.encode(host),
    )
