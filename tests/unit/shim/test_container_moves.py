from __future__ import annotations

import pytest

from bulkhead.shim.lifecycle import MOVES, Move, Phase

LEGAL = {
    (Phase.NEW, Move.CREATE): Phase.CREATED,
    (Phase.CREATED, Move.START): Phase.RUNNING,
    (Phase.CREATED, Move.EXIT): Phase.EXITED,
    (Phase.RUNNING, Move.PAUSE): Phase.PAUSED,
    (Phase.RUNNING, Move.EXIT): Phase.EXITED,
    (Phase.PAUSED, Move.RESUME): Phase.RUNNING,
    (Phase.PAUSED, Move.EXIT): Phase.EXITED,
}


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("move", Move)
def test_the_whole_grid(phase: Phase, move: Move) -> None:
    assert MOVES[phase].get(move) == LEGAL.get((phase, move))
