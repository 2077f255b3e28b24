"""What the manager knows of its containers, in memory: a mirror of the records that answers at once.

Only the records' adapter changes it, after a commit, so it never says what a crash could take back. Names are
reserved here before a record exists, so that two clients never get the same one.
"""

from __future__ import annotations

from collections.abc import Iterator, KeysView

from bulkhead.errors import Conflict, InvalidArgument, NotFound
from bulkhead.model.container import Container
from bulkhead.model.ids import is_full, short, with_prefix


class Index:
    """Containers by id, by name and by prefix."""

    def __init__(self) -> None:
        self._containers: dict[str, Container] = {}
        self._names: dict[str, str] = {}
        self._shorts: dict[str, str] = {}
        self._linkers: dict[str, set[str]] = {}

    def __iter__(self) -> Iterator[Container]:
        return iter(tuple(self._containers.values()))

    def __len__(self) -> int:
        return len(self._containers)

    @property
    def short_ids(self) -> KeysView[str]:
        """The first twelve digits of every id, as they are now."""
        return self._shorts.keys()

    def has_short(self, short_id: str) -> bool:
        return short_id in self._shorts

    def get(self, container_id: str) -> Container:
        """The container with exactly this id. Raises NotFound."""
        found = self._containers.get(container_id)
        if found is None:
            raise NotFound(f"No such container: {container_id}")
        return found

    def knows(self, container_id: str) -> bool:
        return container_id in self._containers

    def linkers(self, container_id: str) -> list[Container]:
        """Those that have a link to this container."""
        return [self._containers[each] for each in sorted(self._linkers.get(container_id, ()))]

    def find(self, ref: str) -> Container:
        """By id, then by name, then by unique prefix of an id; Docker's texts (engine-api.md 0, "Lookup")."""
        if is_full(ref) and ref in self._containers:
            return self._containers[ref]
        named = self._names.get(ref.removeprefix("/"))
        if named is not None and named in self._containers:
            return self._containers[named]
        candidates = with_prefix(ref, self._containers)
        if len(candidates) > 1:
            raise InvalidArgument(f"multiple IDs found with provided prefix: {ref}")
        if not candidates:
            raise NotFound(f"No such container: {ref}")
        return self._containers[candidates[0]]

    def is_reserved(self, name: str) -> bool:
        return name in self._names

    def reserve(self, name: str, container_id: str) -> None:
        """Take `name` for a container to come. Raises Conflict with Docker's text."""
        owner = self._names.get(name)
        if owner is not None:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container "{owner}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )
        self._names[name] = container_id

    def free(self, name: str, container_id: str) -> None:
        """Give a reservation back; nothing happens when another container holds the name."""
        if self._names.get(name) == container_id:
            del self._names[name]

    def put(self, container: Container) -> None:
        """Mirror a record that has been committed; its old name becomes free."""
        before = self._containers.get(container.id)
        if before is not None and before.name != container.name:
            self.free(before.name, container.id)
        self._names[container.name] = container.id
        self._shorts[short(container.id)] = container.id
        self._containers[container.id] = container
        if before is not None:
            self._unlink(before)
        for child in _linked(container):
            self._linkers.setdefault(child, set()).add(container.id)

    def drop(self, container_id: str) -> None:
        """Mirror a removal that has been committed."""
        gone = self._containers.pop(container_id, None)
        if gone is not None:
            self.free(gone.name, container_id)
            self._shorts.pop(short(container_id), None)
            self._unlink(gone)

    def _unlink(self, parent: Container) -> None:
        for child in _linked(parent):
            linkers = self._linkers.get(child, set())
            linkers.discard(parent.id)
            if not linkers:
                self._linkers.pop(child, None)


def _linked(container: Container) -> set[str]:
    return {text.partition(":")[0] for text in container.spec.links}
