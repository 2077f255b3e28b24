"""Networks and endpoints as clients write and read them."""

from __future__ import annotations

from typing import Any

from bulkhead.api.ports.networks import InspectedNetwork, NetworkMember
from bulkhead.api.schema import hostconfig as wire
from bulkhead.api.schema.times import ZERO, rfc3339
from bulkhead.errors import Forbidden, InvalidArgument, NotFound
from bulkhead.model.container import NetworkEndpoint
from bulkhead.model.network import AddressBlock, NetworkRecord


class AddressConfig(wire.Part):
    Subnet: str | None = None
    IPRange: str | None = None
    Gateway: str | None = None
    AuxiliaryAddresses: dict[str, str] | None = None
    AuxAddress: dict[str, str] | None = None


class AddressManagement(wire.Part):
    Driver: str | None = None
    Options: dict[str, str] | None = None
    Config: list[AddressConfig] | None = None


class Reference(wire.Part):
    Network: str | None = None


class CreateNetwork(wire.Part):
    """The body of `POST /networks/create`."""

    Name: str | None = None
    Driver: str | None = None
    Internal: bool | None = None
    Attachable: bool | None = None
    Ingress: bool | None = None
    Scope: str | None = None
    EnableIPv4: bool | None = None
    EnableIPv6: bool | None = None
    ConfigOnly: bool | None = None
    ConfigFrom: Reference | None = None
    IPAM: AddressManagement | None = None
    Options: dict[str, str] | None = None
    Labels: dict[str, str] | None = None

    def wanted(self) -> NetworkRecord:
        """Raises InvalidArgument for what no network here can be."""
        ipam = self.IPAM or AddressManagement()
        if ipam.Driver not in (None, "", "default"):
            raise NotFound(f'plugin "{ipam.Driver}" not found')
        if self.Scope == "swarm":
            raise Forbidden("cannot create a swarm scoped network when swarm is not active")
        if self.ConfigOnly or (self.ConfigFrom is not None and self.ConfigFrom.Network):
            raise InvalidArgument("configuration-only networks are not supported by this engine")
        if self.Ingress:
            raise InvalidArgument("Ingress network can only be global scope network")
        return NetworkRecord(
            id="",
            name=self.Name or "",
            driver=self.Driver or "bridge",
            blocks=tuple(_block(each) for each in ipam.Config or ()),
            internal=bool(self.Internal),
            attachable=bool(self.Attachable),
            enable_ipv4=self.EnableIPv4 is not False,
            enable_ipv6=bool(self.EnableIPv6),
            options=self.Options or {},
            ipam_options=ipam.Options or {},
            ipam_options_told=ipam.Options is not None,
            labels=self.Labels or {},
        )


class EndpointAddresses(wire.Part):
    IPv4Address: str | None = None
    IPv6Address: str | None = None
    LinkLocalIPs: list[str] | None = None


class Endpoint(wire.Part):
    IPAMConfig: EndpointAddresses | None = None
    Links: list[str] | None = None
    Aliases: list[str] | None = None
    MacAddress: str | None = None
    DriverOpts: dict[str, str] | None = None
    GwPriority: wire.Int | None = None


class Connect(wire.Part):
    Container: str | None = None
    EndpointConfig: Endpoint | None = None


class Disconnect(wire.Part):
    Container: str | None = None
    Force: bool | None = None


def wish(name: str, told: Endpoint | None) -> NetworkEndpoint:
    """What a client wants of one network."""
    told = told or Endpoint()
    addresses = told.IPAMConfig or EndpointAddresses()
    return NetworkEndpoint(
        network_name=name,
        aliases=tuple(dict.fromkeys(told.Aliases or ())),
        links=tuple(told.Links or ()),
        driver_options=told.DriverOpts or {},
        gateway_priority=told.GwPriority or 0,
        fixed_address=addresses.IPv4Address or "",
        fixed_address6=addresses.IPv6Address or "",
        link_local_addresses=tuple(addresses.LinkLocalIPs or ()),
        fixed_mac=told.MacAddress or "",
    )


def shown(inspected: InspectedNetwork) -> dict[str, Any]:
    """What `docker network inspect` shows."""
    network = inspected.record
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": rfc3339(network.created_at) if network.created_at else ZERO,
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": network.enable_ipv4,
        "EnableIPv6": network.enable_ipv6,
        "IPAM": {
            "Driver": "default",
            "Options": dict(network.ipam_options) if network.ipam_options_told or network.ipam_options else None,
            "Config": [_shown_block(block) for block in network.blocks] or None,
        },
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {member.container_id: _shown_member(member) for member in inspected.members},
        "Options": dict(network.options),
        "Labels": dict(network.labels),
    }


def _shown_block(block: AddressBlock) -> dict[str, Any]:
    answer: dict[str, Any] = {"Subnet": block.subnet}
    if block.ip_range:
        answer["IPRange"] = block.ip_range
    answer["Gateway"] = block.gateway
    if block.reserved:
        answer["AuxiliaryAddresses"] = dict(block.reserved)
    return answer


def _shown_member(member: NetworkMember) -> dict[str, Any]:
    return {
        "Name": member.container_name,
        "EndpointID": member.endpoint_id,
        "MacAddress": member.mac,
        "IPv4Address": f"{member.address}/{member.prefix_len}" if member.address else "",
        "IPv6Address": f"{member.address6}/{member.prefix_len6}" if member.address6 else "",
    }


def _block(config: AddressConfig) -> AddressBlock:
    return AddressBlock(
        subnet=config.Subnet or "",
        gateway=config.Gateway or "",
        ip_range=config.IPRange or "",
        reserved=config.AuxiliaryAddresses or config.AuxAddress or {},
    )
