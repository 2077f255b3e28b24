"""The events of containers, networks and volumes, with the attributes that Docker's have."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from bulkhead.model.container import Container, Mount, NetworkEndpoint
from bulkhead.model.events import CONTAINER, Event
from bulkhead.model.losses import Loss
from bulkhead.model.network import NetworkRecord
from bulkhead.model.volume import Volume


def of_container(
    container: Container, action: str, extra: Mapping[str, str] | None = None, *, moment: int = 0
) -> Event:
    """An event about `container`: its labels, its name and image, then `extra`; of this moment without another."""
    attributes = {**container.spec.labels, "image": container.spec.image, "name": container.name, **(extra or {})}
    when = moment or time.time_ns()
    return Event(type=CONTAINER, action=action, actor_id=container.id, attributes=attributes, time=when)


def of_network(container: Container, endpoint: NetworkEndpoint, action: str) -> Event:
    """A container was plugged into, or unplugged from, a network."""
    kind = endpoint.network_name if endpoint.network_name in ("host", "none") else "bridge"
    shown = "null" if kind == "none" else kind
    attributes = {"container": container.id, "name": endpoint.network_name, "type": shown}
    return Event(
        type="network", action=action, actor_id=endpoint.network_id, attributes=attributes, time=time.time_ns()
    )


def about_network(network: NetworkRecord, action: str) -> Event:
    """A network was made or removed."""
    attributes = {"name": network.name, "type": network.driver}
    return Event(type="network", action=action, actor_id=network.id, attributes=attributes, time=time.time_ns())


def died(container: Container) -> Event:
    """The end of a run: exit code and whole seconds it lasted."""
    seconds = max(0, container.finished_at - container.started_at) // 1_000_000_000
    return of_container(container, "die", {"exitCode": str(container.exit_code), "execDuration": str(seconds)})


def lost(container: Container, losses: Sequence[Loss]) -> list[Event]:
    """An event "loss" for each; times are seconds, as in Docker's filters, and left out when unknown."""
    return [of_container(container, "loss", _described(each)) for each in losses]


def _described(loss: Loss) -> dict[str, str]:
    told = {"what": loss.what}
    for name, moment in (("since", loss.since), ("until", loss.until)):
        if moment:
            told[name] = f"{moment // 1_000_000_000}.{moment % 1_000_000_000:09d}"
    return told | ({"lines": str(loss.lines)} if loss.lines else {})


def of_volume(volume: Volume, action: str) -> Event:
    """A volume was made or removed."""
    attributes = {**volume.labels, "driver": volume.driver}
    return Event(type="volume", action=action, actor_id=volume.name, attributes=attributes, time=time.time_ns())


def of_prune(kind: str, reclaimed: int) -> Event:
    """Containers, networks or volumes were pruned: how many bytes that freed."""
    return Event(type=kind, action="prune", actor_id="", attributes={"reclaimed": str(reclaimed)}, time=time.time_ns())


def of_mounts(container: Container, action: str) -> list[Event]:
    """Each volume of a container that begins or ends a run ("mount", "unmount")."""
    mounts = [mount for mount in container.spec.mounts if mount.type == "volume"]
    return [_of_mount(container, mount, action) for mount in mounts]


def _of_mount(container: Container, mount: Mount, action: str) -> Event:
    attributes = {"container": container.id, "driver": "local"}
    if action == "mount":
        how = {"destination": mount.target, "propagation": "", "read/write": str(not mount.read_only).lower()}
        attributes |= how
    return Event(type="volume", action=action, actor_id=mount.source, attributes=attributes, time=time.time_ns())
