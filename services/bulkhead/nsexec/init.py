"""Where the first process of containers made with `--init` lies: built with the extension, from csrc/init."""

from __future__ import annotations

from pathlib import Path

INIT_PROGRAM = Path(__file__).with_name("docker-init")
