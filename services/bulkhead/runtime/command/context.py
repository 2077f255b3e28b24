"""What the global options say, for every verb."""

from __future__ import annotations

import os
from dataclasses import dataclass

from bulkhead.runtime.command.logs import Log
from bulkhead.runtime.state import Container

NAME = "bulkhead-runtime"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """`program` is the name it was called by, which usage texts show."""

    program: str
    root: str
    log: Log
    systemd: bool
    rootless: bool

    def container(self, container_id: str) -> Container:
        return Container(self.root, container_id)


def default_root() -> str:
    """In tmpfs: /run for root, the runtime directory of anybody else."""
    own = os.environ.get("XDG_RUNTIME_DIR")
    if os.geteuid() != 0 and own:
        return f"{own}/{NAME}"
    return f"/run/{NAME}"
