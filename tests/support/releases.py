"""Earlier releases, taken out of this checkout's own history and built, to be run beside the present code."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from bulkhead import settings
from tests.support.engine import Engine

ROOT = Path(__file__).parents[2]
BUILD_SECONDS = 120
UP_SECONDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The source tree of one, with its C extension; it runs on this interpreter and its packages."""

    commit: str
    root: Path

    def ctl(self, engine: Engine, *arguments: str) -> str:
        """This release's own operator's command over the directories of `engine`; what it says."""
        names = settings.environment(engine.instance, engine.settings.path)
        environ = {**os.environ, **names, "PYTHONPATH": str(self.root / "services")}
        command = [sys.executable, "-P", "-m", "bulkhead.ctl", *arguments]
        done = subprocess.run(
            command, env=environ, cwd="/", capture_output=True, text=True, timeout=UP_SECONDS, check=False
        )
        assert done.returncode == 0, f"{self.commit}: {done.stdout}\n{done.stderr}"
        return done.stdout


def release(commit: str, root: Path) -> Release:
    """Take the release out below `root` and build it; skips the test where the history does not go back so far."""
    if shutil.which("git") is None:
        pytest.skip("no git on this machine")
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=False)
    if archive.returncode != 0:
        pytest.skip(f"commit {commit} is not in this checkout: {archive.stderr.decode(errors='replace').strip()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tree:
        tree.extractall(root)  # of our own history
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-temp", "build", "--build-lib", "services"]
    built = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    assert built.returncode == 0, built.stderr
    return Release(commit=commit, root=root)
