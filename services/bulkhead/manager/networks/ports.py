"""What the manager asks of a network, and what a network asks of the kernel."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from ipaddress import IPv6Interface
from typing import Any, Protocol

from bulkhead.model.network import (
    DEFAULT_NETWORK,
    AddressPlan,
    Endpoint,
    GatewayMode,
    IPAddress,
    IPInterface,
    IPNetwork,
    Netns,
    Plan,
    PortBinding,
    Reconciled,
)

FAMILIES = (4, 6)
# What a router is called on every link (Docker's choice): with it the bridge asks neighbours from the first moment.
LINK_GATEWAY = IPv6Interface("fe80::1/64")


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressWish:
    """An address that an endpoint should have, or must have when it is `fixed`."""

    address: str
    fixed: bool = False


class Network(Protocol):
    """A network that containers are plugged into.

    It keeps nothing on disk: the manager's records hold each `Endpoint`, and `reconcile` with those
    of all live containers rebuilds what is allocated. Order at boot: `ensure`, `reconcile`, serve.
    """

    async def ensure(self, network: str = DEFAULT_NETWORK) -> None:
        """Make what all containers share (bridge, forwarding, firewall) or check that it is there.

        Takes nothing away, so it may run before `reconcile`. Raises Conflict when the name or subnet of the default
        bridge or of that of `network` is in use by something else, Unavailable when a part of the system is missing.
        """

    def plan(self, wanted: Plan) -> None:
        """Have one more network, made by the next `ensure` or `reconcile`; an old plan of its key is replaced.

        Raises InvalidArgument for what it can never make.
        """

    async def forget(self, key: str) -> None:
        """Remove a network that nobody is plugged into, its bridge included; a second call does nothing.

        Raises Conflict, at once, when somebody is; what the kernel refuses is mended by the next reconciliation.
        """

    async def look(self, name: str, networks: Sequence[IPNetwork]) -> Survey:
        """As `Kernel.look`."""

    def choosing(self) -> AbstractAsyncContextManager[None]:
        """As `Kernel.choosing`."""

    def reserve(
        self,
        container_id: str,
        *,
        routed: Collection[int] = FAMILIES,
        wishes: Sequence[AddressWish] = (),
        mac: str | None = None,
        ports: Sequence[PortBinding] = (),
        name: str | None = None,
    ) -> Endpoint:
        """What `attach` would give as eth0 on the default network, so far in the books alone. `plug_reserved` is next,
        or `detach`. Raises as `attach` does.
        """

    async def plug_reserved(
        self, endpoint: Endpoint, *, routed: Collection[int] = FAMILIES, link_local: Sequence[IPInterface] = ()
    ) -> int:
        """Make it, in a new network namespace with the host's settings of now: a descriptor of that, the caller's.

        On any failure, cancellation included, neither endpoint nor namespace stays.
        """

    async def attach(
        self,
        container_id: str,
        netns: Netns,
        *,
        network: str = DEFAULT_NETWORK,
        interface: str = "eth0",
        routed: Collection[int] = FAMILIES,
        wishes: Sequence[AddressWish] = (),
        mac: str | None = None,
        link_local: Sequence[IPInterface] = (),
        ports: Sequence[PortBinding] = (),
        name: str | None = None,
    ) -> Endpoint:
        """Give a network namespace an interface on the network, and have the host answer its ports.

        For the families (4, 6) in `routed` the network's gateway is the namespace's way to everywhere else, and there
        ports are published. Of `wishes` there is one per family at most; one that is taken brings another address,
        unless it is fixed: then Forbidden. The interface has those of `link_local`, too. `name` is the container's, for
        the error texts. On any failure, cancellation included, nothing stays. Raises Internal with Docker's text when a
        host port is taken, ResourceExhausted without a free address or port, NotFound when the process is gone,
        InvalidArgument for what can never work.
        """

    async def attach_loopback(self, netns: Netns) -> None:
        """Bring up `lo` alone, as `--network none` has it. Raises NotFound when the process is gone."""

    async def tune(self, netns: Netns, settings: Mapping[str, str]) -> None:
        """Write sysctls of interfaces (paths under /proc/sys) in a network namespace.

        Raises LaunchFailed for what the kernel does not take, NotFound when the process is gone, InvalidArgument when
        the namespace is the host's own.
        """

    async def detach(self, endpoint: Endpoint) -> None:
        """Stop answering its ports and free what it held; a second call does nothing.

        Never deletes the veth: it dies with the container's network namespace.
        """

    async def unplug(self, endpoint: Endpoint, netns: Netns) -> None:
        """`detach` from a namespace that lives on: the interface goes too.

        Raises only when nothing was freed; what fails later is mended by the next reconciliation.
        """

    def promise(
        self,
        endpoint: Endpoint,
        *,
        routed: Collection[int] = FAMILIES,
        ports: Sequence[PortBinding] = (),
        held: Collection[PortBinding] = (),
        name: str | None = None,
    ) -> Endpoint:
        """What an endpoint that is attached is with these ports instead of its own, so far in the books alone.

        `publish` is next, with it or with what it was. What its container has `held`, on this network or another, is no
        obstacle. Raises as `attach` does.
        """

    async def publish(self, endpoints: Sequence[Endpoint]) -> None:
        """Have the host answer the ports of a container's attached endpoints as these have them, all at one moment.

        What the kernel refuses is mended as what others break is; who is detached meanwhile is passed over.
        """

    async def route(self, netns: Netns, endpoint: Endpoint, families: Collection[int] = FAMILIES) -> None:
        """Make the endpoint's gateways the namespace's way to everywhere else."""

    async def reconcile(self, live: Iterable[Endpoint]) -> Reconciled:
        """Make the kernel hold what `live` says and nothing else of ours; what that took.

        A second run changes nothing. Attachments under way count as live.
        """

    async def clear(self, netns: Netns, kept: Collection[Endpoint]) -> None:
        """Delete what `reconcile` does not see of endpoints that are on no record: links that are inside alone."""

    async def watch(self) -> None:
        """Until cancelled: put back within a second what others take from our firewall or bridge."""

    async def teardown(self) -> None:
        """Remove bridge, veths and firewall; a second call does nothing."""

    def close(self) -> None:
        """Free the process's own handles; the kernel's state stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """A bridge as it should be: the gateways of its plans are its addresses."""

    name: str
    mac: str
    v4: AddressPlan | None = None
    v6: AddressPlan | None = None
    internal: bool = False
    interconnected: bool = True
    masquerade: bool = True
    alias: str = ""

    @property
    def families(self) -> tuple[tuple[AddressPlan, str], ...]:
        """The plans it has, each with nft(8)'s word for its packets."""
        both = ((self.v4, "ip"), (self.v6, "ip6"))
        return tuple((plan, word) for plan, word in both if plan is not None)

    @property
    def addresses(self) -> tuple[IPInterface, ...]:
        """What the host is called on it."""
        return tuple(plan.interface for plan, _ in self.families if plan.mode is not GatewayMode.ISOLATED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementChange:
    """Elements to add to an nftables map or set, or to delete from it.

    Types are spelt as nft(8) spells them (`value_type` empty for a set), " . " between the parts of
    a concatenation; `entries` are keys in parts, with their values likewise joined. In an `interval`
    set one part is a network.
    """

    family: str
    table: str
    collection: str
    key_type: str
    value_type: str
    entries: Mapping[tuple[str, ...], str]
    delete: bool = False
    interval: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointChange:
    """What publishes an endpoint, or withdraws it.

    UDP flows to `udp_ports` of the host, each with its family (4, 6), go where was right before: they are to be
    forgotten.
    """

    elements: Sequence[ElementChange]
    udp_ports: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """What `plug` makes: a veth from `bridge` to `interface`, with `addresses` and, by `gateways`, default routes."""

    host_interface: str
    bridge: str
    mac: str
    addresses: tuple[IPInterface, ...]
    gateways: tuple[IPAddress, ...]
    mtu: int
    hairpin: bool
    isolated: bool = False
    interface: str = "eth0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """An interface of the host; `master` is the name of its bridge or empty, `alias` what its maker noted."""

    name: str
    kind: str
    master: str
    mtu: int
    up: bool
    addresses: tuple[IPInterface, ...]
    alias: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The host's interfaces by name, and where its routes lead (interface names, empty = several)."""

    interfaces: Mapping[str, Interface]
    routes: tuple[tuple[IPNetwork, str], ...]

    @property
    def default_mtu(self) -> int:
        """The MTU of the interface that leads to the world; Ethernet's when there is none."""
        for destination, name in self.routes:
            if destination.version == 4 and destination.prefixlen == 0 and name in self.interfaces:
                return min(self.interfaces[name].mtu, 1500)
        return 1500


class Kernel(Protocol):
    """The kernel's networking. Each call runs to its end even when its awaiter is cancelled.

    All raise Internal (the kernel refused), Unavailable (a part is not installed) or as stated.
    """

    async def survey(self) -> Survey:
        """Interfaces, addresses and routes of the host."""

    async def look(self, name: str, networks: Sequence[IPNetwork]) -> Survey:
        """What of `survey` bears on an interface's name and on these networks: it, if it is there, others with the
        addresses that they have in there, and routes that lead in there. Costs less, however much else there is.
        """

    async def configure(self, settings: Mapping[str, str]) -> tuple[str, ...]:
        """Write the sysctls (paths under /proc/sys) that differ; those that were written."""

    async def forward_ipv6(self) -> tuple[str, ...]:
        """Have the host forward IPv6, as `configure` answers; interfaces that live by their router's word go on to.

        Raises Unavailable when the host has no IPv6.
        """

    async def make_bridge(self, bridge: Bridge) -> None:
        """Create the bridge, up, with its address; no error for what is there."""

    async def found_bridge(
        self, bridge: Bridge, settings: Mapping[str, str], elements: Sequence[ElementChange]
    ) -> bool:
        """Have a bridge's place in the tables, then make it, then write the sysctls that differ.

        False, and nothing is made, when the elements were refused, because the tables are not what they suppose.
        """

    async def change_elements(self, elements: Sequence[ElementChange]) -> bool:
        """Carry the changes out, all or none; False when they were refused."""

    async def plug(self, netns: Netns, wire: Wire, change: EndpointChange) -> bool:
        """Make the wire and configure the namespace's side, or leave nothing; then publish it.

        False when the wire is made but the elements were refused, because the tables are not what
        the change supposes. Raises Conflict when an interface of either name exists, NotFound when
        the process is gone, InvalidArgument when the namespace is the host's own.
        """

    async def plug_new(self, wire: Wire, change: EndpointChange) -> tuple[int, bool]:
        """The same in a new network namespace, with the host's settings of now: a descriptor of it, the caller's."""

    async def loopback(self, netns: Netns) -> None:
        """Bring up `lo` in a network namespace."""

    async def tune(self, netns: Netns, settings: Mapping[str, str]) -> None:
        """As `Network.tune`."""

    async def route(self, netns: Netns, interface: str, gateways: Sequence[IPAddress]) -> None:
        """Set the default routes of a network namespace, one per family."""

    async def publish(self, ports: Sequence[str], change: EndpointChange) -> bool:
        """Publish for bridge ports that are there as `plug` does, and withdraw as `silence` does, in one step."""

    async def replug(self, bridge: str, names: Sequence[str]) -> None:
        """Make interfaces ports of the bridge again."""

    async def silence(self, name: str, change: EndpointChange) -> bool:
        """Let a bridge port fall silent at once (no error if it is gone), and withdraw it, answering as `plug` does."""

    async def delete_links(self, names: Sequence[str]) -> None:
        """Delete interfaces; no error for those that are gone. Slow."""

    async def table(self, family: str, name: str) -> Sequence[Mapping[str, Any]] | None:
        """The objects of an nftables table (libnftables-json(5)), None without that table."""

    async def apply(self, commands: Sequence[str]) -> None:
        """Carry out nft(8) commands as one transaction."""

    async def forward_chains(self, *, besides: str) -> Sequence[Mapping[str, Any]]:
        """All base chains at the hook forward, DOCKER-USER beside them, and their rules (libnftables-json(5)); those of
        the table `besides` are left out."""

    async def rule_handles(self, family: str, table: str, chain: str, comments: Collection[str]) -> Sequence[int]:
        """The handles of a chain's rules that have one of these comments; none when there is no such chain."""

    async def legacy_forward_drop(self) -> bool:
        """Whether the legacy iptables, where their tables are loaded, drop forwarded packets by default."""

    async def disturbed(
        self,
        table: str,
        bridges: Container[str],
        opened: Collection[tuple[str, str]],
        is_wanted: Callable[[str], bool],
    ) -> None:
        """Return once our network may need mending.

        That is when something was deleted from a table of that name, or a rule from one of the chains `opened` (table,
        chain) that by its comment `is_wanted`; when a chain appeared or changed that filters what is forwarded; when
        one of the bridges, as they are by then, is gone. The first call returns at once: what happened before it nobody
        saw.
        """

    def bindable(self, protocol: str, address: str, port: int) -> str | None:
        """Why the host could not listen there, in strerror's words; None if it could."""

    def has_ipv6(self) -> bool:
        """Whether somebody could listen on IPv6 addresses of the host."""

    def published_elsewhere(self, table: str, protocol: str, address: str, port: int) -> bool:
        """Whether another installation on this host publishes the port: in its table, like ours but not `table`."""

    def reserve(self, protocol: str, port: int) -> bool:
        """Have other installations keep off a port until `unreserve`; False while another one has it reserved.

        True, too, where nothing can be reserved.
        """

    def unreserve(self, protocol: str, port: int) -> None:
        """Another installation may look at the port; no error when it was not reserved."""

    def choosing(self) -> AbstractAsyncContextManager[None]:
        """While it is entered no other installation on this host is in it, so that a subnet that was found free still
        is when the bridge is made. One that stands still in there keeps others waiting for some seconds, not for ever.
        """

    def ephemeral_ports(self) -> range:
        """The host's range of ports of its own choice."""

    def close(self) -> None:
        """Free handles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """An interface of the host that others branch off. One that is missing is made: `vlan` of `base`, or a dead end."""

    name: str
    base: str = ""
    vlan: int = 0
    alias: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A link of `parent` by a `driver` (macvlan, ipvlan): what a container gets as `interface`.

    `gateways` are its default routes; for the families in `direct` everything else goes out without one.
    """

    driver: str
    parent: str
    mode: str
    flag: str
    interface: str
    mac: str
    mtu: int
    addresses: tuple[IPInterface, ...] = ()
    gateways: tuple[IPAddress, ...] = ()
    direct: tuple[int, ...] = ()


class Branches(Protocol):
    """The kernel's macvlan and ipvlan. Calls run to their ends and raise as those of `Kernel` do."""

    async def survey(self) -> Survey:
        """Interfaces, addresses and routes of the host."""

    async def make_parent(self, parent: Parent) -> None:
        """Make an interface that is not there, up, with the note that it is ours."""

    async def delete_links(self, names: Sequence[str]) -> None:
        """Delete interfaces; no error for those that are gone. Slow."""

    async def try_out(self, branch: Branch) -> None:
        """Make such a link in a namespace of nobody's: raises what would fail for a container."""

    async def graft(self, netns: Netns, branch: Branch) -> None:
        """Make the link inside and configure it, or leave nothing. Waits for a predecessor's burial.

        A link of that name and parent is replaced: nobody's, left there by a crash.
        """

    async def cut(self, netns: Netns, interface: str) -> None:
        """Delete a link inside; no error if it, or the process, is gone."""

    async def clear(self, netns: Netns, parents: Collection[str], kept: Collection[str]) -> None:
        """Delete links of `parents` inside that are none of `kept`; no error if the process is gone."""

    async def lead(self, netns: Netns, branch: Branch) -> None:
        """Set the branch's default routes."""
