"""The C code: no warnings, and the decoder under the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.nsexec.plans import FULL, LEAST

CSRC = Path(__file__).parents[3] / "services" / "bulkhead" / "nsexec" / "csrc"
WARNINGS = "-std=gnu11 -O2 -Wall -Wextra -Werror -Wconversion -Wshadow -Wvla -Wstrict-prototypes".split()  # noqa: SIM905
ROUNDS = "40000"

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


def gcc(*arguments: str | Path) -> None:
    result = subprocess.run(["gcc", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_stage_compiles_without_a_warning(tmp_path: Path) -> None:
    stage = ["-ffreestanding", "-fno-stack-protector", "-nostdlib", "-nostartfiles", "-static", "-Wl,-z,noexecstack"]
    sources = [*sorted((CSRC / "nsinit").glob("*.c")), CSRC / "plan.c"]
    gcc(*WARNINGS, *stage, "-o", tmp_path / "nsinit", *sources)
    gcc(*WARNINGS, *stage, "-o", tmp_path / "docker-init", *sorted((CSRC / "init").glob("*.c")))


def test_trees_compile_without_a_warning(tmp_path: Path) -> None:
    gcc(*WARNINGS, "-fPIC", "-c", "-o", tmp_path / "trees.o", CSRC / "trees.c")


def test_the_launcher_compiles_without_a_warning(tmp_path: Path) -> None:
    gcc(*WARNINGS, "-fPIC", "-c", "-o", tmp_path / "spawn.o", CSRC / "spawn.c")


def test_the_decoder_is_clean_under_the_sanitizers(tmp_path: Path) -> None:
    """Sound plans, every truncation of them, and many random edits."""
    plans = [tmp_path / "full", tmp_path / "least"]
    for path, plan in zip(plans, (FULL, LEAST), strict=True):
        path.write_bytes(plan.encode())
    sanitizers: list[str | Path] = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-I", CSRC]
    program = tmp_path / "plan_test"
    gcc(*WARNINGS, *sanitizers, "-o", program, Path(__file__).with_name("plan_test.c"), CSRC / "plan.c")
    result = subprocess.run([program, ROUNDS, *plans], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
