"""The gRPC face of what the operator does for the store of images."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from bulkhead.manager.images.checker import Checker
from bulkhead.wire.convert import to_message
from bulkhead.wire.gen.bulkhead.manager import v1 as api


class UpkeepServicer(api.UpkeepBase):
    """protos/bulkhead/manager/v1/upkeep.proto."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker

    async def check(self, message: api.CheckRequest) -> AsyncIterator[api.Finding]:
        async with contextlib.aclosing(self._checker.check(repair=message.repair)) as findings:
            async for finding in findings:
                yield to_message(api.Finding, finding)
