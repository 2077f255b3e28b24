"""What the README tells people to type works when typed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.engine import COMMAND_SECONDS, Engine

README = Path(__file__).parents[2] / "README.md"


def block(name: str) -> str:
    """The code block that follows the comment `<!-- tested: name -->`."""
    found = re.search(rf"<!-- tested: {name} -->\s*```\w+\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None, f"README.md has no block {name}"
    return found[1]


def typed(engine: Engine, command: list[str]) -> str:
    done = subprocess.run(
        command, env=engine.environ, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_curl_example(engine: Engine) -> None:
    """The Engine API needs no client of Docker's."""
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    assert "hello from curl" in typed(engine, ["bash", "-euo", "pipefail", "-c", block("curl")])


def test_the_docker_py_example(engine: Engine) -> None:
    assert "hello from docker-py" in typed(engine, [sys.executable, "-c", block("docker-py")])


def test_the_table_of_names_is_complete() -> None:
    """Each target of the Makefile that people need is in the README."""
    text = README.read_text()
    for target in ("up", "down", "purge", "status", "logs", "demo", "bench", "check", "test"):
        assert f"make {target}" in text
