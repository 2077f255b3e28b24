"""What a container is created from, on its way from the API to the manager."""

from __future__ import annotations

from dataclasses import dataclass, field

from bulkhead.model.container import ContainerSpec
from bulkhead.wire import models
from bulkhead.wire.gen.bulkhead.manager.v1 import CreateContainerRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Creating:
    """A CreateContainerRequest, of the domain; both sides may have it in the place of the message."""

    name: str = ""
    spec: ContainerSpec = field(default_factory=ContainerSpec)

    def __bytes__(self) -> bytes:
        return models.encode(CreateContainerRequest, self)

    # What grpclib's codec calls.
    SerializeToString = __bytes__

    @staticmethod
    def FromString(data: bytes) -> Creating:
        return models.decode(Creating, CreateContainerRequest, data)
