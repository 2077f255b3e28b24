"""The three networks there are: the instance's bridge, host and none. Networks of users come later."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from bulkhead.api.ports import ListedContainer
from bulkhead.api.schema.times import ZERO
from bulkhead.model.instance import Instance

FILTERS = frozenset(("dangling", "driver", "id", "label", "name", "scope", "type"))
_DRIVERS = {"bridge": "bridge", "host": "host", "none": "null"}


def all_networks(instance: Instance) -> list[dict[str, Any]]:
    return [_network(instance, name) for name in _DRIVERS]


def with_containers(network: dict[str, Any], containers: Iterable[ListedContainer]) -> dict[str, Any]:
    """`network` and the running containers that are on it."""
    network["Containers"] = {
        container.id: {
            "Name": container.name,
            "EndpointID": container.endpoint.endpoint_id,
            "MacAddress": container.endpoint.mac,
            "IPv4Address": f"{container.endpoint.address}/{container.endpoint.prefix_len}",
            "IPv6Address": "",
        }
        for container in containers
        if container.phase.alive and container.endpoint is not None and container.endpoint.address
        and (container.endpoint.network_name or "bridge") == network["Name"]
    }  # fmt: skip
    return network


def find(networks: Iterable[dict[str, Any]], ref: str) -> dict[str, Any] | None:
    """By full id, name, or the beginning of an id."""
    known = list(networks)
    exact = [each for each in known if ref in (each["Id"], each["Name"])]
    found = exact or [each for each in known if each["Id"].startswith(ref)]
    return found[0] if len(found) == 1 else None


def matches(network: Mapping[str, Any], filters: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether the filters, known by name, let the network through."""
    return all(any(_test(network, name, value) for value in values) for name, values in filters.items() if values)


def _test(network: Mapping[str, Any], name: str, value: str) -> bool:
    if name in ("driver", "scope"):
        return bool(network[name.capitalize()] == value)
    if name == "id":
        return bool(network["Id"].startswith(value))
    if name == "name":
        return value in network["Name"]
    # Predefined networks have no labels, are of type builtin and never dangle.
    return (name, value.lower()) in {("type", "builtin"), ("dangling", "false"), ("dangling", "0")}


def _network(instance: Instance, name: str) -> dict[str, Any]:
    bridge = name == "bridge"
    return {
        "Name": name,
        "Id": hashlib.sha256(f"bulkhead network {name}".encode()).hexdigest(),
        "Created": ZERO,
        "Scope": "local",
        "Driver": _DRIVERS[name],
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": _pools(instance) if bridge else None},
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": _options(instance) if bridge else {},
        "Labels": {},
    }


def _pools(instance: Instance) -> list[dict[str, str]]:
    subnet = ipaddress.ip_network(instance.subnet)
    return [{"Subnet": str(subnet), "Gateway": str(subnet[1])}]


def _options(instance: Instance) -> dict[str, str]:
    return {
        "com.docker.network.bridge.default_bridge": "true",
        "com.docker.network.bridge.enable_icc": "true",
        "com.docker.network.bridge.enable_ip_masquerade": "true",
        "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",
        "com.docker.network.bridge.name": instance.bridge,
        "com.docker.network.driver.mtu": "1500",
    }
