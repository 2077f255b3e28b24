"""What the manager knows of its containers, in memory: a mirror of the records that answers at once.

Only the records' adapter changes it, after a commit, so it never says what a crash could take back. Names are
reserved here before a record exists, so that two clients never get the same one.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator, KeysView, Sequence

from bulkhead.errors import Conflict, InvalidArgument, NotFound
from bulkhead.manager.uses import Uses
from bulkhead.model.container import Container
from bulkhead.model.ids import is_full, short, with_prefix
from bulkhead.model.lifecycle import Phase


class Index:
    """Containers by id, by name, by prefix and by what they use: what is asked of one costs as much beside many."""

    def __init__(self) -> None:
        self._containers: dict[str, Container] = {}
        self._running: dict[str, Container] = {}
        self._in_order: list[str] = []
        self._names: dict[str, str] = {}
        self._shorts: dict[str, str] = {}
        self._links = Uses(_linked)
        self._volumes = Uses(_volumes)
        self._networks = Uses(_networks)
        self._running_images = Uses(_running_image)
        self._idle_images = Uses(_idle_image)

    def __iter__(self) -> Iterator[Container]:
        return iter(tuple(self._containers.values()))

    def __len__(self) -> int:
        return len(self._containers)

    @property
    def short_ids(self) -> KeysView[str]:
        """The first twelve digits of every id, as they are now."""
        return self._shorts.keys()

    def running(self) -> Sequence[Container]:
        """Those that run, paused ones too, or are about to run again."""
        return list(self._running.values())

    def ids(self) -> KeysView[str]:
        """Every id, as they are now."""
        return self._containers.keys()

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
        return [self._containers[each] for each in sorted(self._links.of(container_id))]

    def users_of_volume(self, name: str) -> list[Container]:
        """Those that have it among their mounts."""
        return [self._containers[each] for each in self._volumes.of(name)]

    def members(self, network_id: str) -> list[Container]:
        """Those that live and are on this network."""
        return [self._containers[each] for each in self._networks.of(network_id)]

    def running_from(self, image_id: str) -> Collection[str]:
        """Ids of those that were made from an image and run, or are about to run again."""
        return self._running_images.of(image_id)

    def idle_from(self, image_id: str) -> Collection[str]:
        """Ids of the others that were made from it."""
        return self._idle_images.of(image_id)

    def find(self, ref: str) -> Container:
        """By id, then by name, then by unique prefix of an id; Docker's texts (engine-api.md 0, "Lookup")."""
        if is_full(ref) and ref in self._containers:
            return self._containers[ref]
        named = self._names.get(ref.removeprefix("/"))
        if named is not None and named in self._containers:
            return self._containers[named]
        candidates = with_prefix(ref, self._in_order)
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
        if before is None:
            insort(self._in_order, container.id)
        elif before.name != container.name:
            self.free(before.name, container.id)
        self._names[container.name] = container.id
        self._shorts[short(container.id)] = container.id
        self._containers[container.id] = container
        if _runs(container):
            self._running[container.id] = container
        else:
            self._running.pop(container.id, None)
        self._follow(before, container)

    def drop(self, container_id: str) -> None:
        """Mirror a removal that has been committed."""
        gone = self._containers.pop(container_id, None)
        if gone is not None:
            del self._in_order[bisect_left(self._in_order, container_id)]
            self.free(gone.name, container_id)
            self._shorts.pop(short(container_id), None)
            self._running.pop(container_id, None)
            self._follow(gone, None)

    def _follow(self, before: Container | None, after: Container | None) -> None:
        """What it uses by now. A life has many changes, and few of them change that."""
        if before is None or after is None or before.spec is not after.spec:
            self._links.change(before, after)
            self._volumes.change(before, after)
        if before is None or after is None or before.phase is not after.phase:
            self._running_images.change(before, after)
            self._idle_images.change(before, after)
            self._networks.change(before, after)
        elif before.endpoints is not after.endpoints:
            self._networks.change(before, after)


def _linked(container: Container) -> Iterable[str]:
    return {text.partition(":")[0] for text in container.spec.links}


def _volumes(container: Container) -> Iterable[str]:
    return [mount.source for mount in container.spec.mounts if mount.type == "volume"]


def _networks(container: Container) -> Iterable[str]:
    return [each.network_id for each in container.endpoints] if container.phase.alive else ()


def _running_image(container: Container) -> Iterable[str]:
    return (container.image_id,) if _runs(container) else ()


def _idle_image(container: Container) -> Iterable[str]:
    return () if _runs(container) else (container.image_id,)


def _runs(container: Container) -> bool:
    return container.phase.alive or container.phase is Phase.RESTARTING
