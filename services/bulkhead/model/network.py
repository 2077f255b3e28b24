"""What a container's place on a network is: the ports it publishes, the endpoint it was given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
)

from bulkhead.errors import InvalidArgument
from bulkhead.model.ids import short

MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
INTERFACE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
IPAddress = IPv4Address | IPv6Address
IPInterface = IPv4Interface | IPv6Interface
IPNetwork = IPv4Network | IPv6Network
# What stands for every address of the host.
ANY, ANY6 = "0.0.0.0", "::"
LOOPBACK6 = "::1"
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
            ip_address(self.host_ip or ANY)
        except ValueError:
            raise InvalidArgument(f"invalid IP address: {self.host_ip}") from None

    @property
    def is_ipv6(self) -> bool:
        """Whether the host answers it over IPv6; an address that is not named yet is not."""
        return ":" in self.host_ip

    @property
    def version(self) -> int:
        """The family by which the host answers it: 4 or 6."""
        return 6 if self.is_ipv6 else 4

    @property
    def candidates(self) -> range:
        """The host ports asked for; empty when the choice is the host's."""
        return range(self.host_port, (self.host_port_end or self.host_port) + 1) if self.host_port else range(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """A port of the host whose connections and datagrams are carried by hand to one of the container."""

    protocol: str
    host_ip: str
    host_port: int
    address: str
    container_port: int


DEFAULT_NETWORK = "bridge"


class GatewayMode(Enum):
    """How a network's addresses meet the world (Docker's option gateway_mode_ipv4 or _ipv6).

    NAT: hidden behind the host's, only published ports reached. ROUTED: neither hidden nor translated, published ports
    reached at the container's own address. UNPROTECTED: as NAT, and every port reached there. ISOLATED: internal, and
    the host itself has no address in it.
    """

    NAT = "nat"
    ROUTED = "routed"
    UNPROTECTED = "nat-unprotected"
    ISOLATED = "isolated"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressPlan:
    """A network's addresses of one family.

    Containers get those of `pool` (a part of `subnet`), never the gateway's or a reserved one.
    """

    subnet: IPNetwork
    gateway: IPAddress
    pool: IPNetwork | None = None
    reserved: tuple[IPAddress, ...] = ()
    mode: GatewayMode = GatewayMode.NAT

    @property
    def interface(self) -> IPInterface:
        """The gateway's address with its prefix."""
        return ip_interface((self.gateway, self.subnet.prefixlen))


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgePlan:
    """A network on a bridge of the host, as it should be. `key` is the network's id, or "bridge" for the default one.

    It has addresses of one family or of both. Without `interconnected` containers do not reach each other; an
    `internal` network reaches nothing else and is reached by nothing.
    """

    key: str
    bridge: str
    v4: AddressPlan | None = None
    v6: AddressPlan | None = None
    internal: bool = False
    interconnected: bool = True
    masquerade: bool = True
    mtu: int = 0
    host_binding: str = ""

    @property
    def families(self) -> tuple[AddressPlan, ...]:
        """IPv4 first."""
        return tuple(plan for plan in (self.v4, self.v6) if plan is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkPlan:
    """A network on an interface of the host (`parent`), by links of a `driver` (macvlan, ipvlan) in a `mode`.

    Without a parent that exists one is made: `vlan` of `base`, or where there is no base one that leads nowhere. An
    `internal` network leads to nothing else.
    """

    key: str
    driver: str
    parent: str
    mode: str
    flag: str = ""
    base: str = ""
    vlan: int = 0
    v4: AddressPlan | None = None
    v6: AddressPlan | None = None
    internal: bool = False
    mtu: int = 0

    @property
    def families(self) -> tuple[AddressPlan, ...]:
        """IPv4 first."""
        return tuple(plan for plan in (self.v4, self.v6) if plan is not None)

    @property
    def is_own(self) -> bool:
        """Whether its parent may be made for it."""
        return bool(self.vlan) or not self.base


Plan = BridgePlan | LinkPlan


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
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    ipam_options: Mapping[str, str] = field(default_factory=dict)
    # Whether the user told any, be they none.
    ipam_options_told: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A container plugged into a network. The manager's record keeps it; the network keeps nothing else.

    `address`, `prefix_len` and `gateway` are IPv4's and empty without it, those with a 6 are IPv6's.

    `host_interface` names the host's end of the veth pair: it is new for each attachment, because
    the kernel may still be burying the last one; on a macvlan or ipvlan network it is the parent's.
    Raises InvalidArgument for what no network gave: addresses and names of endpoints become
    firewall rules.
    """

    container_id: str
    mac: str
    host_interface: str
    address: str = ""
    prefix_len: int = 0
    gateway: str = ""
    address6: str = ""
    prefix_len6: int = 0
    gateway6: str = ""
    ports: tuple[PortBinding, ...] = ()
    network: str = DEFAULT_NETWORK
    interface: str = "eth0"

    def __post_init__(self) -> None:
        fits = MAC.fullmatch(self.mac) and INTERFACE_NAME.fullmatch(self.host_interface)
        v4, v6 = (self.address, self.gateway), (self.address6, self.gateway6)
        plain = all(_is(4, text) for text in v4) or v4 == ("", "")
        if not fits or not plain or not (all(_is(6, text) for text in v6) or v6 == ("", "")):
            raise InvalidArgument(f"cannot use endpoint of container {self.container_id}: it is malformed: {self!r}")

    @property
    def addresses(self) -> tuple[IPInterface, ...]:
        """Those it has, IPv4's first."""
        both = ((self.address, self.prefix_len), (self.address6, self.prefix_len6))
        return tuple(_interface(address, length) for address, length in both if address)

    @property
    def relays(self) -> tuple[Relay, ...]:
        """What the kernel cannot lead to it: the shim listens there."""
        return tuple(
            Relay(
                protocol=port.protocol,
                host_ip=host,
                host_port=port.host_port,
                address=self.address6 or self.address,
                container_port=port.container_port,
            )
            for port in self.ports
            if (host := self._relayed_host(port))
        )

    def _relayed_host(self, port: PortBinding) -> str:
        """The address of the host's at which the port is carried over by hand, of [::] with IPv6 here [::1] alone."""
        if self.relays_port(port):
            return port.host_ip
        by_hand = port.host_port and port.host_ip == ANY6 and port.protocol != "sctp"
        return LOOPBACK6 if by_hand else ""

    def relays_port(self, port: PortBinding) -> bool:
        """Whether it is [::1]'s, to which the kernel takes no answers from a network, or IPv6's without IPv6 here."""
        return bool(port.host_port) and port.is_ipv6 and (not self.address6 or IPv6Address(port.host_ip).is_loopback)

    @property
    def gateways(self) -> tuple[IPAddress, ...]:
        """By family, as `addresses` are."""
        return tuple(parsed(gateway) for gateway in (self.gateway, self.gateway6) if gateway)


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


def bridge_name(network_id: str, options: Mapping[str, str]) -> str:
    """The bridge of a network with these options."""
    return options.get("com.docker.network.bridge.name") or f"br-{short(network_id)}"


def parent_name(network_id: str, options: Mapping[str, str]) -> str:
    """The interface that a macvlan or ipvlan network with these options stands on: its own, where none is named."""
    return options.get("parent") or f"dm-{short(network_id)}"


def parse_link_local(text: str) -> IPInterface:
    """An address for one link alone, with the prefix that all of its kind have. Raises InvalidArgument, as Docker."""
    try:
        address = ip_address(text)
    except ValueError:
        raise InvalidArgument(f"Invalid link-local IP address: [{text}]") from None
    if not address.is_link_local:
        raise InvalidArgument(f"invalid link local IP address: {text}")
    return ip_interface((address, 16 if address.version == 4 else 64))


def link_local(mac: str) -> IPv6Address:
    """The address that an interface with this MAC gives itself (RFC 4291, appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    return IPv6Address(b"\xfe\x80" + bytes(6) + bytes((octets[0] ^ 2,)) + octets[1:3] + b"\xff\xfe" + octets[3:])


@lru_cache(maxsize=1024)
def parsed(text: str) -> IPAddress:
    """An address, of which each is looked at a dozen times while its container starts. Raises ValueError."""
    return ip_address(text)


@lru_cache(maxsize=1024)
def _interface(address: str, length: int) -> IPInterface:
    return ip_interface((address, length))


def _is(version: int, text: str) -> bool:
    try:
        return parsed(text).version == version
    except ValueError:
        return False
