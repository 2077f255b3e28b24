"""Whose shim this is. Paths are strings: see linux.atomicfile."""

from __future__ import annotations

from typing import NamedTuple


class Identity(NamedTuple):
    """`run_dir` holds the sockets, `data_dir` the bundle and the facts."""

    container_id: str
    run_dir: str
    data_dir: str

    @property
    def short_id(self) -> str:
        """The id as people see it."""
        return self.container_id[:12]
