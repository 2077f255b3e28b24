"""Nothing of a launch stays in its parent, whether it succeeds, fails or joins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from statistics import median

import pytest

from tests.support.containers import BUSYBOX

# More than the allocator keeps for later; a kibibyte per launch would be 200.
ROOM_KIB = 128
ROUNDS = 3
# Whose threads and descriptors are its own: those of tests before this one end when they like.
PROGRAM = f"""
import dataclasses, json
from tests.bench.spawn_leaks import grown
print(json.dumps([[dataclasses.asdict(held) for held in each] for each in grown(200, {ROUNDS})]))
"""


@pytest.mark.skipif(os.geteuid() != 0 or not BUSYBOX.exists(), reason="containers need root and busybox-static")
def test_two_hundred_launches_leave_nothing() -> None:
    """A leak grows in most rounds; the allocator's and the interpreter's tables grow in one, and shrink in another."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, check=True)
    rounds = json.loads(done.stdout)
    assert len(rounds) == ROUNDS
    for before, after in rounds:
        assert (after["descriptors"], after["children"]) == (before["descriptors"], before["children"])
    assert median(after["memory"] - before["memory"] for before, after in rounds) < ROOM_KIB
