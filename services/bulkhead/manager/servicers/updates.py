"""The gRPC face of updates."""

from __future__ import annotations

from dataclasses import dataclass

from bulkhead.manager.updating import Update, Updating
from bulkhead.wire.convert import to_model
from bulkhead.wire.gen.bulkhead.manager import v1 as api


@dataclass(frozen=True, slots=True)
class UpdatesServicer(api.UpdatesBase):
    """protos/bulkhead/manager/v1/updates.proto."""

    _updating: Updating

    async def update(self, message: api.UpdateContainerRequest) -> api.UpdateContainerResponse:
        await self._updating.update(message.ref, to_model(Update, message))
        return api.UpdateContainerResponse()
