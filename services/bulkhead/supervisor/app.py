"""The supervisor put together."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from bulkhead.settings import Settings
from bulkhead.supervisor.config import SupervisorConfig
from bulkhead.supervisor.keeping import Keeping
from bulkhead.supervisor.launches import Launches
from bulkhead.supervisor.servicer import SupervisorServicer
from bulkhead.supervisor.spares import SparePool, zygote_command
from bulkhead.wire import server


@contextlib.asynccontextmanager
async def serve(settings: Settings) -> AsyncIterator[None]:
    """Entered when spares are ready and the socket listens."""
    config = settings.table("supervisor", SupervisorConfig)
    pool = SparePool(config.spares, zygote_command(settings.instance.run / "cache"))
    keeping = Keeping(settings.instance.run / "containers")
    async with pool.running(), keeping.running():
        launches = Launches(pool, keeping)
        async with server.serve([SupervisorServicer(launches)], settings.instance.supervisor_socket):
            yield
