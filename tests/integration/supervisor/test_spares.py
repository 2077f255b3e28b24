from __future__ import annotations

import os
from pathlib import Path

import pytest

from bulkhead.supervisor import spares
from bulkhead.supervisor.spares import SparePool, zygote_command

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="its zygote rehearses a container's life: needs root"),
]


async def test_a_machine_too_slow_for_the_first_zygote_gets_one_that_may_take_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each were given up after the same time, there would never be a shim on a machine that is starved of CPU."""
    monkeypatch.setattr(spares, "_SPAWN_TIMEOUT", 0.05)
    log = tmp_path / "started"
    command = ("sh", "-c", f'echo $$ >> {log}; exec "$@"', "sh", *zygote_command(tmp_path / "cache"))
    pool = SparePool(1, command)
    async with pool.running():
        (await pool.take(timeout=0)).discard()
    assert len(log.read_text().split()) > 1
