"""Workers are not left behind by a caller that goes while it tells them what to do."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from bulkhead.content import worker

_ROOT = Path(__file__).parents[3]


async def test_who_is_cancelled_while_telling_leaves_no_worker() -> None:
    # A program that never reads its input; a document that no pipe holds.
    listener = await worker.start("http.server", "test", ["--bind", "127.0.0.1", "0"])
    telling = asyncio.create_task(worker.tell(listener, bytes(8 << 20)))
    await asyncio.wait([telling], timeout=0.1)
    assert not telling.done() and listener.process.returncode is None
    telling.cancel()
    await asyncio.wait([telling])
    assert telling.cancelled() and listener.process.returncode is not None


async def test_who_died_before_it_was_told_is_no_error() -> None:
    gone = await worker.start("this", "test")
    await gone.ended
    await worker.tell(gone, bytes(8 << 20))
    assert gone.process.returncode == 0
    await worker.end(gone)


def test_no_file_of_others_is_closed_with_a_worker() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.support.shared_files", "100"], cwd=_ROOT, check=False)
    assert done.returncode == 0
