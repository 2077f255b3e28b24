"""Cgroups below the instance's parent, one for each container that runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bulkhead.linux.cgroups import hierarchies
from bulkhead.manager.adapters.shims import remove_group


@dataclass(frozen=True, slots=True)
class Groups:
    """`bulkhead.manager.ports.Groups`."""

    label: str

    def names(self) -> frozenset[str]:
        found: set[str] = set()
        for root in hierarchies().roots():
            found.update(_children(Path(root) / self.label))
        return frozenset(found)

    def remove(self, name: str) -> None:
        remove_group(f"/{self.label}/{name}")


def _children(directory: Path) -> list[str]:
    try:
        return [entry.name for entry in directory.iterdir() if entry.is_dir()]
    except OSError:
        return []
