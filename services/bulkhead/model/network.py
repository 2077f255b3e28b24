"""What a container's place on a network is: the ports it publishes, the endpoint it was given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, ip_address

from bulkhead.errors import InvalidArgument

MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
INTERFACE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
WILDCARD = IPv4Address("0.0.0.0")
# IP protocol numbers: /etc/protocols, which could spell them, is missing on minimal systems.
PROTOCOL_NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132}


@dataclass(frozen=True, slots=True, kw_only=True)
class PortBinding:
    """A port of the container that the host answers.

    As asked: `host_port` 0 lets the host choose, `host_port_end` makes it the first free one of a
    range. As given (in an `Endpoint`): one host port, no range, and never an empty `host_ip`.
    Raises InvalidArgument for what can be no port or address.
    """

    container_port: int
    protocol: str = "tcp"
    host_ip: str = ""
    host_port: int = 0
    host_port_end: int = 0

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOL_NUMBERS:
            raise InvalidArgument(f"invalid proto: {self.protocol}")
        if not 1 <= self.container_port <= 65535:
            raise InvalidArgument(f"invalid containerPort: {self.container_port}")
        last = self.host_port_end or self.host_port
        if not 0 <= self.host_port <= last <= 65535 or (self.host_port_end and not self.host_port):
            raise InvalidArgument(f"invalid hostPort: {self.host_port}-{last}")
        try:
            ip_address(self.host_ip or "0.0.0.0")
        except ValueError:
            raise InvalidArgument(f"invalid IP address: {self.host_ip}") from None

    @property
    def candidates(self) -> range:
        """The host ports asked for; empty when the choice is the host's."""
        return range(self.host_port, (self.host_port_end or self.host_port) + 1) if self.host_port else range(0)


DEFAULT_NETWORK = "bridge"


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgePlan:
    """A network on a bridge of the host, as it should be. `key` is the network's id, or "bridge" for the default one.

    Containers get addresses of `pool` (a part of `subnet`), never the gateway's or a reserved one. Without
    `interconnected` they do not reach each other; an `internal` network reaches nothing else and is reached by nothing.
    """

    key: str
    bridge: str
    subnet: IPv4Network
    gateway: IPv4Address
    pool: IPv4Network | None = None
    reserved: tuple[IPv4Address, ...] = ()
    internal: bool = False
    interconnected: bool = True
    masquerade: bool = True
    mtu: int = 0
    host_binding: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressBlock:
    """One pool of a network's addresses, in text: `subnet`, `gateway`, the part given out, addresses of others."""

    subnet: str
    gateway: str = ""
    ip_range: str = ""
    reserved: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRecord:
    """A network that a user made. `created_at` in Unix nanoseconds; `chosen_subnet`: the user named its subnet."""

    id: str
    name: str
    driver: str = "bridge"
    blocks: tuple[AddressBlock, ...] = ()
    chosen_subnet: bool = False
    internal: bool = False
    attachable: bool = False
    enable_ipv6: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    ipam_options: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A container plugged into a network. The manager's record keeps it; the network keeps nothing else.

    `host_interface` names the host's end of the veth pair: it is new for each attachment, because
    the kernel may still be burying the last one. Raises InvalidArgument for what no network gave:
    addresses and names of endpoints become firewall rules.
    """

    container_id: str
    address: str
    prefix_len: int
    gateway: str
    mac: str
    host_interface: str
    ports: tuple[PortBinding, ...] = ()
    network: str = DEFAULT_NETWORK
    interface: str = "eth0"

    def __post_init__(self) -> None:
        fits = MAC.fullmatch(self.mac) and INTERFACE_NAME.fullmatch(self.host_interface)
        if not fits or not _is_ipv4(self.address) or not _is_ipv4(self.gateway):
            raise InvalidArgument(f"cannot use endpoint of container {self.container_id}: it is malformed: {self!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessNetns:
    """The network namespace of a process, which is not believed by its pid alone.

    `start_time` is field 22 of /proc/<pid>/stat (proc_pid_stat(5)); None skips the check.
    """

    pid: int
    start_time: int | None = None


Netns = int | ProcessNetns
"""A network namespace: an open descriptor of it, or the process that lives in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """What a reconciliation had to mend; false when that was nothing."""

    bridge_made: bool = False
    settings_changed: tuple[str, ...] = ()
    links_deleted: tuple[str, ...] = ()
    links_plugged: tuple[str, ...] = ()
    table_changes: int = 0
    # Live endpoints whose veth is gone with no way back: their containers have no network.
    lost: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return replace(self, lost=()) != Reconciled()


def _is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True
