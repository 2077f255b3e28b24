"""The edge for execs."""

from __future__ import annotations

from bulkhead.errors import LaunchFailed
from bulkhead.manager.execs import Execs
from bulkhead.manager.servicers.containers import launch_failure
from bulkhead.model.execs import ExecPhase, ExecSpec
from bulkhead.wire.convert import to_message, to_model
from bulkhead.wire.gen.bulkhead.manager import v1 as api


class ExecsServicer(api.ExecsBase):
    """protos/bulkhead/manager/v1/containers.proto, service Execs."""

    def __init__(self, execs: Execs) -> None:
        self._execs = execs

    async def create(self, message: api.CreateExecRequest) -> api.CreateExecResponse:
        spec = to_model(ExecSpec, message.spec) if message.spec is not None else ExecSpec()
        return api.CreateExecResponse(id=(await self._execs.create(message.ref, spec)).id)

    async def start(self, message: api.StartExecRequest) -> api.StartExecResponse:
        size = (message.height, message.width)
        try:
            started = await self._execs.start(message.id, detach=message.detach, size=size)
        except LaunchFailed as failure:
            return api.StartExecResponse(failure=launch_failure(failure))
        spec = to_message(api.ExecSpec, started.spec)
        return api.StartExecResponse(socket=started.socket, tty=started.spec.tty, spec=spec)

    async def inspect(self, message: api.InspectExecRequest) -> api.InspectExecResponse:
        found = await self._execs.inspect(message.id, asked=message.asked)
        return api.InspectExecResponse(
            id=found.id,
            container_id=found.container_id,
            spec=to_message(api.ExecSpec, found.spec),
            running=found.phase is ExecPhase.RUNNING,
            started=found.phase is not ExecPhase.CREATED,
            exit_code=found.exit_code,
            pid=found.pid,
        )

    async def resize(self, message: api.ResizeExecRequest) -> api.ResizeExecResponse:
        await self._execs.resize(message.id, message.height, message.width)
        return api.ResizeExecResponse()
