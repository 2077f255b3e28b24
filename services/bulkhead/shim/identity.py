"""Whose shim this is, and what it can be ready for. Paths are strings: see linux.atomicfile."""

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


class Expected(NamedTuple):
    """What is known of the create that is to come: whether it brings the network namespace along (`network_given`), and
    the cgroup that it will name, if that can be made ahead."""

    network_given: bool = False
    cgroup: str = ""


NOTHING_KNOWN = Expected()
