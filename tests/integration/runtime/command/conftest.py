"""A state root of its own for each test; afterwards no container may be left in it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containers import BUSYBOX
from tests.support.runtime_command import Runtime, runtimes


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    if os.geteuid() != 0:
        pytest.skip("containers need root")
    if not BUSYBOX.exists():
        pytest.skip("busybox-static is not installed")
    yield from runtimes(tmp_path, f"/bh-cmd-{secrets.token_hex(4)}")
