from __future__ import annotations

import os
from pathlib import Path

import pytest

from bulkhead.errors import Internal
from bulkhead.linux import process
from bulkhead.supervisor import spares
from bulkhead.supervisor.spares import SparePool, Zygote, zygote_command

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="its zygote rehearses a container's life: needs root"),
]


def counting(log: Path, cache: Path) -> tuple[str, ...]:
    """The zygote's command, which leaves a line for each start."""
    return ("sh", "-c", f'echo $$ >> {log}; exec "$@"', "sh", *zygote_command(cache))


async def test_a_machine_too_slow_for_the_first_zygote_gets_one_that_may_take_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each were given up after the same time, there would never be a shim on a machine that is starved of CPU."""
    monkeypatch.setattr(spares, "_SPAWN_TIMEOUT", 0.05)
    monkeypatch.setattr(process, "cpu_ticks", lambda _: 7)
    log = tmp_path / "started"
    pool = SparePool(1, counting(log, tmp_path / "cache"))
    async with pool.running():
        (await pool.take(timeout=0)).discard()
    assert len(log.read_text().split()) > 1


async def test_a_zygote_that_works_is_not_given_up_however_slow_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its work would be for nothing, and the next one would have to do it once more on the same starved machine."""
    asked: list[int] = []

    def ever_more(pid: int) -> int:
        asked.append(pid)
        return len(asked)

    monkeypatch.setattr(spares, "_SPAWN_TIMEOUT", 0.01)
    monkeypatch.setattr(process, "cpu_ticks", ever_more)
    log = tmp_path / "started"
    pool = SparePool(1, counting(log, tmp_path / "cache"))
    async with pool.running():
        (await pool.take(timeout=0)).discard()
    assert log.read_text().split() == [str(asked[0])]
    assert len(asked) > 2


async def test_a_zygote_that_runs_in_circles_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spares, "_MOST_TICKS", 2)
    zygote = await Zygote.start(("sh", "-c", "while :; do :; done", "sh"))
    try:
        with pytest.raises(Internal, match="cannot fork a spare shim: TimeoutError"):
            await zygote.spawn(timeout=0.05)
    finally:
        await zygote.stop()
