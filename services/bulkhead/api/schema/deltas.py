"""What older API versions get instead: one table, applied to finished answers.

Answers are made for the newest version. A row says: below this version, change that answer like this. SDKs
index keys that only old versions had (VirtualSize, ContainerConfig), and strict ones refuse keys they never saw.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from bulkhead.api.versions import Version

Answer = dict[str, Any]


class Delta(NamedTuple):
    answer: str
    below: Version
    change: Callable[[Answer], None]


def fitted(answer: str, value: Answer, version: Version) -> Answer:
    """`value`, an answer of the kind `answer`, as clients of `version` expect it; changes it in place."""
    for delta in _TABLE[answer]:
        if version < delta.below:
            delta.change(value)
    return value


def _drop(*names: str) -> Callable[[Answer], None]:
    def change(value: Answer) -> None:
        for name in names:
            value.pop(name, None)

    return change


def _add(**defaults: Any) -> Callable[[Answer], None]:
    def change(value: Answer) -> None:
        for name, default in defaults.items():
            value.setdefault(name, default)

    return change


def _each_endpoint(change: Callable[[Answer], None]) -> Callable[[Answer], None]:
    def change_all(value: Answer) -> None:
        for endpoint in value["NetworkSettings"]["Networks"].values():
            change(endpoint)

    return change_all


def _each_image(change: Callable[[Answer], None]) -> Callable[[Answer], None]:
    def change_all(value: Answer) -> None:
        for image in value["Images"] or ():
            change(image)

    return change_all


def _within(key: str, change: Callable[[Answer], None]) -> Callable[[Answer], None]:
    return lambda value: change(value[key])


def _virtual_size(value: Answer) -> None:
    value["VirtualSize"] = value["Size"]


def _containers_unknown(value: Answer) -> None:
    value["Containers"] = -1


def _none_placeholders(value: Answer) -> None:
    value["RepoTags"] = value["RepoTags"] or ["<none>:<none>"]
    value["RepoDigests"] = value["RepoDigests"] or ["<none>@<none>"]


def _full_image_config(value: Answer) -> None:
    """Until 1.49 an image's Config had all the keys of a container's."""
    blank: Answer = {
        "Hostname": "", "Domainname": "", "User": "", "AttachStdin": False, "AttachStdout": False,
        "AttachStderr": False, "Tty": False, "OpenStdin": False, "StdinOnce": False, "Env": None, "Cmd": None,
        "Image": "", "Volumes": None, "WorkingDir": "", "Entrypoint": None, "OnBuild": None, "Labels": None,
    }  # fmt: skip
    value["Config"] = blank | value["Config"]


def _container_config(value: Answer) -> None:
    value["Container"] = ""
    value["ContainerConfig"] = {**value["Config"], "Cmd": None, "Entrypoint": None}


_ALL_DELTAS = (
    Delta("container", Version(1, 48), _each_endpoint(_drop("GwPriority"))),
    Delta("container", Version(1, 44), _each_endpoint(_drop("DNSNames"))),
    Delta("container", Version(1, 44), _within("Config", _add(MacAddress=""))),
    Delta("container", Version(1, 43), _within("HostConfig", _drop("Annotations"))),
    Delta("container", Version(1, 42), _within("HostConfig", _add(KernelMemory=0, KernelMemoryTCP=0))),
    Delta("listed container", Version(1, 48), _each_endpoint(_drop("GwPriority"))),
    Delta("listed container", Version(1, 44), _each_endpoint(_drop("DNSNames"))),
    Delta("image", Version(1, 50), _full_image_config),
    Delta("image", Version(1, 48), _drop("Descriptor")),
    Delta("image", Version(1, 45), _container_config),
    Delta("image", Version(1, 44), _virtual_size),
    Delta("listed image", Version(1, 51), _containers_unknown),
    Delta("listed image", Version(1, 48), _drop("Descriptor")),
    Delta("listed image", Version(1, 44), _virtual_size),
    Delta("listed image", Version(1, 43), _none_placeholders),
    Delta("info", Version(1, 50), _drop("DiscoveredDevices")),
    Delta("info", Version(1, 50), _add(BridgeNfIptables=False, BridgeNfIp6tables=False)),
    Delta("info", Version(1, 49), _drop("FirewallBackend")),
    Delta("info", Version(1, 46), _drop("Containerd")),
    Delta("info", Version(1, 44), _drop("CDISpecDirs")),
    Delta(
        "info", Version(1, 42), _add(KernelMemory=False, KernelMemoryTCP=False, ClusterStore="", ClusterAdvertise="")
    ),
    Delta("network", Version(1, 48), _drop("EnableIPv4")),
    Delta("disk usage", Version(1, 44), _each_image(_virtual_size)),
    Delta("disk usage", Version(1, 42), _add(BuilderSize=0)),
)
_TABLE: dict[str, tuple[Delta, ...]] = {
    kind: tuple(delta for delta in _ALL_DELTAS if delta.answer == kind)
    for kind in {delta.answer for delta in _ALL_DELTAS}
}
