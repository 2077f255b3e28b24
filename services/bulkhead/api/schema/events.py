"""Journal entries as messages of `GET /events`."""

from __future__ import annotations

from typing import Any

from bulkhead.api.ports.system import EngineEvent

FILTERS = frozenset(
    ("type", "event", "container", "image", "volume", "network", "label", "daemon", "scope", "plugin", "node",
     "service", "secret", "config")
)  # fmt: skip


def message(event: EngineEvent) -> dict[str, Any]:
    """The message, with the keys of old clients (status, id, from) for containers and images."""
    shown: dict[str, Any] = {}
    if event.type in ("container", "image"):
        shown |= {"status": event.action, "id": event.actor_id}
    if event.type == "container":
        shown["from"] = event.attributes.get("image", "")
    return {
        **shown,
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.actor_id, "Attributes": dict(event.attributes)},
        "scope": "local",
        "time": event.time // 10**9,
        "timeNano": event.time,
    }
