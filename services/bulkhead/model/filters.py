"""Docker's filters: which containers and which events a client wants to see.

Keys are AND-ed; the values of a key are OR-ed, except those of `label`, which are AND-ed (engine-api.md 0).
Everything is decided here without I/O: what a filter names (an image, another container) arrives resolved.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bulkhead.errors import InvalidArgument
from bulkhead.model.container import Container, PublishedPort
from bulkhead.model.events import Event
from bulkhead.model.lifecycle import Phase
from bulkhead.model.patterns import Search

Filters = Mapping[str, Sequence[str]]

_LIST_KEYS = "ancestor before since exited id name label status health volume network publish expose is-task isolation"
_EVENT_KEYS = "container daemon event image label network node plugin scope secret service type volume config"
LIST_KEYS = frozenset(_LIST_KEYS.split())
PRUNE_KEYS = frozenset(("until", "label", "label!"))
EVENT_KEYS = frozenset(_EVENT_KEYS.split())
_TRUE, _FALSE = frozenset(("1", "true")), frozenset(("0", "false"))
_STATUSES = frozenset(phase.value for phase in Phase)
_HEALTH = frozenset(("none", "starting", "healthy", "unhealthy"))


def check_keys(filters: Filters, allowed: frozenset[str]) -> None:
    """InvalidArgument when a key is not one of `allowed`."""
    for key in filters:
        if key not in allowed:
            raise InvalidArgument(f"Invalid filter '{key}'")


def boolean(filters: Filters, key: str) -> bool | None:
    """A filter that is true or false, None when it was not given. Raises InvalidArgument for another value."""
    if key not in filters:
        return None
    values = {value.lower() for value in filters[key]}
    if values and values <= _TRUE:
        return True
    if values and values <= _FALSE:
        return False
    raise InvalidArgument(f"Invalid filter '{key}=[{' '.join(filters[key])}]'")


def fits_labels(labels: Mapping[str, str], filters: Filters) -> bool:
    """Whether `label` of a prune lets these through, and `label!` does not hold them back."""
    held_back = any(matches_labels(labels, [unwanted]) for unwanted in filters.get("label!", ()))
    return not held_back and matches_labels(labels, filters.get("label", ()))


def matches_labels(labels: Mapping[str, str], wanted: Iterable[str]) -> bool:
    """Whether all of `wanted` ("key" or "key=value") are among `labels`."""
    for each in wanted:
        key, has_value, value = each.partition("=")
        if key not in labels or (has_value and labels[key] != value):
            return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerFilter:
    """A parsed container list filter.

    `ancestors` holds what each `ancestor` value resolved to (image ids) beside the values themselves; `before` and
    `since` are the creation times of the containers named there.
    """

    filters: Filters = field(default_factory=dict)
    ancestors: frozenset[str] = frozenset()
    before: int | None = None
    since: int | None = None
    search: Search = field(default_factory=Search, compare=False)

    @property
    def implies_all(self) -> bool:
        """A filter on the status looks at stopped containers too."""
        return bool(self.filters.get("status"))

    def matches(self, container: Container) -> bool:
        """Whether `container` passes every key."""
        if self.before is not None and container.created_at >= self.before:
            return False
        if self.since is not None and container.created_at <= self.since:
            return False
        if self.filters.get("ancestor") and not self.ancestors & {container.image_id, container.spec.image}:
            return False
        if not matches_labels(container.spec.labels, self.filters.get("label", ())):
            return False
        return not self.filters or (
            all(
                any(test(container, value) for value in self.filters[key])
                for key, test in _CONTAINER_TESTS.items()
                if self.filters.get(key)
            )
            and self._is_found(container)
        )

    def _is_found(self, container: Container) -> bool:
        searched = {"id": (container.id,), "name": (f"/{container.name}", container.name)}
        return all(
            any(self.search.finds(pattern, text) for pattern in self.filters[key] for text in texts)
            for key, texts in searched.items()
            if self.filters.get(key)
        )


def parse_container_filter(
    filters: Filters,
    *,
    resolve_image: Callable[[str], str | None],
    created_at: Callable[[str], int],
) -> ContainerFilter:
    """A filter for `docker ps`. `created_at` raises NotFound for an unknown container."""
    check_keys(filters, LIST_KEYS)
    for status in filters.get("status", ()):
        if status not in _STATUSES:
            raise InvalidArgument(f"Invalid filter 'status={status}'")
    for health in filters.get("health", ()):
        if health not in _HEALTH:
            raise InvalidArgument(f"Unrecognised filter value for health: {health}")
    for code in filters.get("exited", ()):
        if re.fullmatch(r"-?[0-9]+", code) is None:
            raise InvalidArgument(f'strconv.Atoi: parsing "{code}": invalid syntax')
    search = Search()
    for pattern in (*filters.get("name", ()), *filters.get("id", ())):
        search.prepare(pattern)
    boolean(filters, "is-task")
    for key in ("publish", "expose"):
        for port in filters.get(key, ()):
            _check_ports(key, port)
    before = [created_at(ref) for ref in filters.get("before", ())]
    since = [created_at(ref) for ref in filters.get("since", ())]
    ancestors = {name for ref in filters.get("ancestor", ()) for name in (ref, resolve_image(ref)) if name}
    return ContainerFilter(
        filters=filters,
        ancestors=frozenset(ancestors),
        before=before[-1] if before else None,
        since=since[-1] if since else None,
        search=search,
    )


def _by_status(container: Container, value: str) -> bool:
    return container.phase.value == value


def _by_exit_code(container: Container, value: str) -> bool:
    exited = container.phase in (Phase.EXITED, Phase.DEAD) and container.started_at > 0
    return exited and container.exit_code == int(value)


def _by_health(container: Container, value: str) -> bool:
    return (container.health_status or "none") == value


def _by_volume(container: Container, value: str) -> bool:
    return any(value in (mount.source, mount.target) for mount in container.spec.mounts)


def _by_network(container: Container, value: str) -> bool:
    on = container.endpoints
    names = {container.spec.network_mode, *(each.network_name for each in on)}
    if container.spec.network_mode in ("", "default"):
        names.add("bridge")
    return value in names or any(each.network_id.startswith(value) for each in on)


def _published(container: Container) -> list[PublishedPort]:
    return [port for each in container.endpoints for port in each.ports]


def _by_published_port(container: Container, value: str) -> bool:
    """By the host's port; only what runs has any, as in Docker."""
    protocol, first, last = port_range(value)
    return container.phase.alive and any(
        each.protocol == protocol and first <= each.host_port <= last for each in _published(container)
    )


def _by_exposed_port(container: Container, value: str) -> bool:
    """By the container's own port, published or not; only of what runs."""
    protocol, first, last = port_range(value)
    if not container.phase.alive:
        return False
    for exposed in container.spec.exposed_ports:
        try:
            its_protocol, its_first, its_last = port_range(exposed)
        except InvalidArgument:
            continue
        if its_protocol == protocol and its_first <= last and first <= its_last:
            return True
    return any(each.protocol == protocol and first <= each.container_port <= last for each in _published(container))


def _check_ports(key: str, text: str) -> None:
    try:
        port_range(text)
    except InvalidArgument as error:
        number = text.partition("/")[0]
        raise InvalidArgument(
            f'error while looking up for {key} {text}: strconv.ParseUint: parsing "{number}": invalid syntax'
        ) from error


def port_range(text: str) -> tuple[str, int, int]:
    """Protocol, first and last port of "80", "80/udp" or "8000-8010/tcp". Raises InvalidArgument."""
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?", text)
    if match is None:
        raise InvalidArgument(f"invalid port specification: {text!r}")
    return match[3] or "tcp", int(match[1]), int(match[2] or match[1])


def _never(_container: Container, value: str) -> bool:
    """Swarm tasks and Windows isolation: no container of ours is one."""
    return value.lower() in ("false", "0", "default")


_CONTAINER_TESTS: dict[str, Callable[[Container, str], bool]] = {
    "status": _by_status,
    "exited": _by_exit_code,
    "health": _by_health,
    "volume": _by_volume,
    "network": _by_network,
    "publish": _by_published_port,
    "expose": _by_exposed_port,
    "is-task": _never,
    "isolation": _never,
}


def matches_event(event: Event, filters: Filters) -> bool:
    """Whether a subscriber with `filters` wants to hear of `event`."""
    if not matches_labels(event.attributes, filters.get("label", ())):
        return False
    return all(
        any(test(event, value) for value in filters[key]) for key, test in _EVENT_TESTS.items() if filters.get(key)
    )


def _by_action(event: Event, value: str) -> bool:
    # "exec_create: ls -l" and "health_status: healthy" are found by their first word as well.
    return value in (event.action, event.action.partition(":")[0])


def _by_actor(kind: str) -> Callable[[Event, str], bool]:
    def test(event: Event, value: str) -> bool:
        if event.type != kind:
            return False
        return value == event.attributes.get("name") or (value != "" and event.actor_id.startswith(value))

    return test


def _by_image(event: Event, value: str) -> bool:
    of_image = event.type == "image"
    names = [event.attributes.get("name" if of_image else "image", ""), event.actor_id if of_image else ""]
    return any(value in (name, _without_tag(name)) for name in names if name)


def _without_tag(name: str) -> str:
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}"


def _by_scope(_event: Event, value: str) -> bool:
    return value == "local"


def _none(_event: Event, _value: str) -> bool:
    return False


_EVENT_TESTS: dict[str, Callable[[Event, str], bool]] = {
    "type": lambda event, value: event.type == value,
    "event": _by_action,
    "container": _by_actor("container"),
    "network": _by_actor("network"),
    "volume": _by_actor("volume"),
    "daemon": _by_actor("daemon"),
    "plugin": _none,
    "service": _none,
    "node": _none,
    "secret": _none,
    "config": _none,
    "image": _by_image,
    "scope": _by_scope,
}
