"""A box to run containers from; afterwards nothing of them may be left."""

from __future__ import annotations

import os
import shutil
import subprocess
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


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """probe.c as a static program."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    program = tmp_path_factory.mktemp("probe") / "probe"
    source = Path(__file__).with_name("probe.c")
    subprocess.run(["gcc", "-static", "-O1", "-o", program, source], check=True)
    return program


@pytest.fixture
def armed(box: Box, probe: Path) -> Box:
    """A box whose image has /bin/probe."""
    shutil.copy(probe, box.image / "bin" / "probe")
    return box
