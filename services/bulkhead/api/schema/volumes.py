"""Volumes as clients write and read them."""

from __future__ import annotations

from typing import Any

import msgspec

from bulkhead.api.ports.volumes import InspectedVolume
from bulkhead.api.schema.times import SECOND, rfc3339
from bulkhead.model.volume import Volume


class CreateVolume(msgspec.Struct, kw_only=True):
    """The body of `POST /volumes/create`."""

    Name: str | None = None
    Driver: str | None = None
    DriverOpts: dict[str, str] | None = None
    Labels: dict[str, str] | None = None

    def wanted(self) -> Volume:
        return Volume(
            name=self.Name or "", driver=self.Driver or "", labels=self.Labels or {}, options=self.DriverOpts or {}
        )


def shown(volume: InspectedVolume) -> dict[str, Any]:
    """What `docker volume inspect` shows."""
    answer: dict[str, Any] = {
        "CreatedAt": rfc3339(volume.created_at // SECOND * SECOND),
        "Driver": volume.driver,
        "Labels": dict(volume.labels) or None,
        "Mountpoint": volume.mountpoint,
        "Name": volume.name,
        "Options": dict(volume.options) or None,
        "Scope": "local",
    }
    if volume.size >= 0:
        answer["UsageData"] = {"RefCount": volume.references, "Size": volume.size}
    return answer
