"""The gRPC face of volumes: message in, use-case, message out."""

from __future__ import annotations

from dataclasses import dataclass

from bulkhead.manager.actors import Actors
from bulkhead.manager.servicers.containers import filters_of
from bulkhead.manager.volumes.catalogue import Volumes
from bulkhead.manager.volumes.pruning import VolumePruning
from bulkhead.model.volume import Volume
from bulkhead.wire.gen.bulkhead.manager import v1 as api

_NOT_ASKED = -1


@dataclass(frozen=True, slots=True)
class VolumesServicer(api.VolumesBase):
    """protos/bulkhead/manager/v1/volumes.proto."""

    _volumes: Volumes
    _pruning: VolumePruning
    # What is begun is ended, though its caller dies: a record without its directory helps nobody.
    _actors: Actors

    async def create(self, message: api.CreateVolumeRequest) -> api.Volume:
        wanted = Volume(name=message.name, driver=message.driver, labels=message.labels, options=message.options)
        return self._shown(await self._actors.shielded(self._volumes.create(wanted), "create volume"))

    async def list(self, message: api.ListVolumesRequest) -> api.ListVolumesResponse:
        found = self._pruning.select(filters_of(message.filters))
        if not message.usage:
            return api.ListVolumesResponse(volumes=[self._shown(each) for each in found])
        shown = [
            self._shown(each, size=await self._volumes.size(each.name), references=len(self._volumes.users(each.name)))
            for each in found
            if each.is_ours
        ]
        return api.ListVolumesResponse(volumes=shown)

    async def inspect(self, message: api.InspectVolumeRequest) -> api.Volume:
        return self._shown(self._volumes.get(message.name))

    async def remove(self, message: api.RemoveVolumeRequest) -> api.RemoveVolumeResponse:
        await self._actors.shielded(self._volumes.remove(message.name, force=message.force), "remove volume")
        return api.RemoveVolumeResponse()

    async def prune(self, message: api.PruneVolumesRequest) -> api.PruneVolumesResponse:
        pruned = await self._actors.shielded(self._pruning.prune(filters_of(message.filters)), "prune volumes")
        return api.PruneVolumesResponse(names=list(pruned.names), space_reclaimed=pruned.space_reclaimed)

    def _shown(self, volume: Volume, *, size: int = _NOT_ASKED, references: int = 0) -> api.Volume:
        return api.Volume(
            name=volume.name,
            driver=volume.driver,
            labels=dict(volume.labels),
            options=dict(volume.options),
            created_at=volume.created_at,
            mountpoint=str(self._volumes.places.data(volume.name)),
            size=size,
            references=references,
        )
