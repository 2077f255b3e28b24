"""What a container or an exec is created from, on its way from the API to the manager."""

from __future__ import annotations

from dataclasses import dataclass, field

from bulkhead.model.container import ContainerSpec
from bulkhead.model.execs import ExecSpec
from bulkhead.wire import models
from bulkhead.wire.gen.bulkhead.manager.v1 import CreateContainerRequest, CreateExecRequest


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatingExec:
    """A CreateExecRequest, of the domain, in the place of the message."""

    ref: str = ""
    spec: ExecSpec = field(default_factory=ExecSpec)

    def __bytes__(self) -> bytes:
        return models.encode(CreateExecRequest, self)

    SerializeToString = __bytes__
