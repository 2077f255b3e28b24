"""Where the first process of containers made with `--init` lies: built with the extension, from nsexec/csrc/init."""

from __future__ import annotations

from pathlib import Path

INIT_PROGRAM = Path(__file__).parents[1] / "nsexec" / "docker-init"
