"""`bulkhead fsck`: the manager checks its images while everything runs, and here its report is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bulkhead.model.instance import Instance
from bulkhead.settings import Settings

Say = Callable[[str], None]


def fsck(settings: Settings, repair: bool, say: Say = print) -> int:
    """Check blobs, layers and records of images; 1 when a problem is left. Needs a running manager."""
    problems, repaired = asyncio.run(_report(settings.instance, repair, say))
    left = problems - repaired
    say(f"{problems} problems, {repaired} repaired" if problems else "no problems")
    if left and not repair:
        say("`bulkhead fsck --repair` fetches or unpacks again what it can, and drops the rest")
    return 1 if left else 0


async def _report(instance: Instance, repair: bool, say: Say) -> tuple[int, int]:
    # Their import takes longer than most verbs do.
    from bulkhead.wire.client import channel, stub
    from bulkhead.wire.gen.bulkhead.manager.v1 import CheckRequest, UpkeepStub

    problems = repaired = 0
    over = channel(instance.manager_socket)
    try:
        async for finding in stub(UpkeepStub, over, "manager").check(CheckRequest(repair=repair)):
            problems += finding.problem
            repaired += finding.repaired
            say(f"{'repaired' if finding.repaired else 'problem' if finding.problem else 'ok'}: {finding.text}")
    finally:
        over.close()
    return problems, repaired
