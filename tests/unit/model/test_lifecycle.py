"""Every phase meets every event: what is not in the table is refused."""

from __future__ import annotations

import pytest

from bulkhead.errors import Conflict
from bulkhead.model.lifecycle import TRANSITIONS, Event, Phase, apply

LEGAL = {
    ("created", "started"): "running",
    ("created", "start failed"): "created",
    ("created", "removal begun"): "removing",
    ("running", "paused"): "paused",
    ("running", "exited"): "exited",
    ("paused", "resumed"): "running",
    ("paused", "exited"): "exited",
    ("exited", "started"): "running",
    ("exited", "start failed"): "exited",
    ("exited", "restart scheduled"): "restarting",
    ("exited", "removal begun"): "removing",
    ("restarting", "started"): "running",
    ("restarting", "start failed"): "exited",
    ("restarting", "restart cancelled"): "exited",
    ("restarting", "removal begun"): "removing",
    ("removing", "removal failed"): "dead",
    ("dead", "removal begun"): "removing",
}


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("event", Event)
def test_grid(phase: Phase, event: Event) -> None:
    after = LEGAL.get((phase.value, event.value))
    if after is None:
        with pytest.raises(Conflict):
            apply(phase, event)
    else:
        assert apply(phase, event) is Phase(after)


def test_every_phase_can_be_left() -> None:
    """A container that can never be removed would be a leak by design."""
    assert set(TRANSITIONS) == set(Phase)
    assert all(TRANSITIONS.values())
