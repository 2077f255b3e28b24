"""The supervisor's edge: protos/bulkhead/supervisor/v1/supervisor.proto."""

from __future__ import annotations

from bulkhead.shim.identity import Expected, Identity
from bulkhead.supervisor.launches import Launches
from bulkhead.wire.gen.bulkhead.supervisor import v1 as supervisor


class SupervisorServicer(supervisor.SupervisorBase):
    """Message in, launch, message out."""

    def __init__(self, launches: Launches) -> None:
        self._launches = launches

    async def launch(self, message: supervisor.LaunchRequest) -> supervisor.LaunchResponse:
        identity = Identity(container_id=message.container_id, run_dir=message.run_dir, data_dir=message.data_dir)
        expected = Expected(network_given=message.network_given, cgroup=message.cgroup)
        shim = await self._launches.launch(identity, expected)
        return supervisor.LaunchResponse(pid=shim.pid, start_time=shim.start_time)
