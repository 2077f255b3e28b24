"""The manager's volumes in memory, over gRPC."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from bulkhead import errors
from bulkhead.wire.gen.bulkhead.manager import v1 as wire


@dataclass
class FakeVolumes(wire.VolumesBase):
    """Volumes without directories; nobody uses them."""

    volumes: dict[str, wire.Volume] = field(default_factory=dict)

    async def create(self, message: wire.CreateVolumeRequest) -> wire.Volume:
        name = message.name or "f" * 64
        made = wire.Volume(name=name, driver="local", labels=message.labels, options=message.options, size=-1)
        made.created_at, made.mountpoint = time.time_ns(), f"/data/volumes/{name}/_data"
        return self.volumes.setdefault(name, made)

    async def list(self, message: wire.ListVolumesRequest) -> wire.ListVolumesResponse:
        return wire.ListVolumesResponse(volumes=list(self.volumes.values()))

    async def inspect(self, message: wire.InspectVolumeRequest) -> wire.Volume:
        if message.name not in self.volumes:
            raise errors.NotFound(f"get {message.name}: no such volume")
        return self.volumes[message.name]

    async def remove(self, message: wire.RemoveVolumeRequest) -> wire.RemoveVolumeResponse:
        if self.volumes.pop(message.name, None) is None and not message.force:
            raise errors.NotFound(f"get {message.name}: no such volume")
        return wire.RemoveVolumeResponse()

    async def prune(self, message: wire.PruneVolumesRequest) -> wire.PruneVolumesResponse:
        names, self.volumes = list(self.volumes), {}
        return wire.PruneVolumesResponse(names=names)
