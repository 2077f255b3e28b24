"""Nothing of a launch stays in its parent, whether it succeeds, fails or joins."""

from __future__ import annotations

import os

import pytest

from tests.bench.spawn_leaks import grown
from tests.support.containers import BUSYBOX

# More than the allocator keeps for later; a kibibyte per launch would be 200.
ROOM_KIB = 128


@pytest.mark.skipif(os.geteuid() != 0 or not BUSYBOX.exists(), reason="containers need root and busybox-static")
def test_two_hundred_launches_leave_nothing() -> None:
    before, after = grown(200)
    assert (after.descriptors, after.children) == (before.descriptors, before.children)
    assert after.memory - before.memory < ROOM_KIB
