"""Cgroups below the instance's parent that belong to no container."""

from __future__ import annotations

from pathlib import Path

import structlog

from bulkhead.errors import BulkheadError
from bulkhead.linux.cgroups import hierarchies
from bulkhead.manager.adapters.shims import remove_group

log = structlog.get_logger()


def sweep_groups(label: str, owned: frozenset[str]) -> None:
    """Kill and remove every group `/<label>/<name>` whose name is not in `owned`. Blocking."""
    found: set[str] = set()
    for root in hierarchies().roots():
        found.update(_children(Path(root) / label))
    for name in sorted(found - owned):
        try:
            remove_group(f"/{label}/{name}")
        except BulkheadError as error:
            log.warning("cannot sweep a cgroup", name=name, reason=str(error))


def _children(directory: Path) -> list[str]:
    try:
        return [entry.name for entry in directory.iterdir() if entry.is_dir()]
    except OSError:
        return []
