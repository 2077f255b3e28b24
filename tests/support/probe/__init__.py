"""The probe: a static program that says what a process inside a container is and may do (probe.c)."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_name("probe.c")
_CACHE = Path("/tmp/bh-cache")

Report = Mapping[str, Mapping[str, str]]


def probe() -> Path:
    """The program, compiled once per machine and version; skips where there is no compiler."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    made = _CACHE / f"probe-{hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]}"
    if not made.exists():
        _CACHE.mkdir(exist_ok=True)
        part = made.with_name(f"{made.name}.{os.getpid()}")
        subprocess.run(["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o", part, _SOURCE], check=True)
        part.rename(made)
    return made


def parse(text: str) -> Report:
    """What `probe report` printed: values by name by field."""
    found: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        field, name, value = line.split(" ", 2)
        found.setdefault(field, {})[name] = value
    return found
