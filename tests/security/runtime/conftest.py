"""A box to run containers from; afterwards nothing of them may be left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containers import BUSYBOX, Box, boxed


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    if os.geteuid() != 0:
        pytest.skip("containers need root")
    if not BUSYBOX.exists():
        pytest.skip("busybox-static is not installed")
    yield from boxed(tmp_path)
