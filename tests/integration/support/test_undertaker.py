"""Whoever is killed while its engine is taken away leaves nothing either."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.eventually import until

KILLED = """
import os, signal
from tests.support import engine
def killed(self):
    os.kill(os.getpid(), signal.SIGKILL)
engine.Engine.{where} = killed
with engine.private_engine() as made:
    made.instance.run.mkdir()
    print(made.base, flush=True)
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("where", ["stop", "purge"])
def test_killed_at_the_end(where: str) -> None:
    command = [sys.executable, "-c", KILLED.format(where=where)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -9
    until(lambda: not Path(done.stdout.strip()).exists())
