"""Which Python an installation is made with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import bulkhead.ctl

SCRIPT = Path(bulkhead.ctl.__file__).with_name("bootstrap.sh")
SYSTEM = Path("/usr/bin/python3")


def chosen(**environment: str) -> str:
    """What the script says it would use, as root or not."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    return subprocess.check_output(["sh", SCRIPT, "none", "which"], env=clean | environment, text=True).strip()


def is_recent(python: Path) -> bool:
    said = subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"], check=False)
    return said.returncode == 0


def test_what_the_operator_names_is_taken() -> None:
    assert chosen(PYTHON="/opt/python3.14") == "/opt/python3.14"


def test_the_distributions_python_is_preferred_where_it_is_recent(tmp_path: Path) -> None:
    (tmp_path / "python3").symlink_to(sys.executable)
    expected = str(SYSTEM) if SYSTEM.exists() and is_recent(SYSTEM) else "python3"
    assert chosen(PATH=f"{tmp_path}:{os.environ['PATH']}") == expected
