"""Networks as users ask for them: made, listed, removed; containers connected and disconnected."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address

from bulkhead import failpoints
from bulkhead.errors import BulkheadError, Conflict, Forbidden, Internal, InvalidArgument, NotFound
from bulkhead.manager.actors import Actors
from bulkhead.manager.announcements import about_network, of_network, of_prune
from bulkhead.manager.bundles import Bundles
from bulkhead.manager.networking import Networking, Plugged
from bulkhead.manager.networks import blocks
from bulkhead.manager.networks.known import PREDEFINED
from bulkhead.manager.networks.link_options import DRIVERS
from bulkhead.manager.networks.plans import plan_of, subnets_of
from bulkhead.manager.ports import Change, Records
from bulkhead.manager.relaying import Relaying
from bulkhead.manager.resolving import Resolving
from bulkhead.manager.settling import settle_later
from bulkhead.manager.sharing import Attachment, attachment
from bulkhead.model.container import Container, NetworkEndpoint
from bulkhead.model.filters import Filters, boolean, check_keys, fits_labels, matches_labels
from bulkhead.model.moments import parse_moment
from bulkhead.model.network import BridgePlan, NetworkRecord, bridge_name, parse_link_local
from bulkhead.model.replacing import replace

LIST_KEYS = frozenset(("dangling", "driver", "id", "label", "name", "scope", "type"))
PRUNE_KEYS = frozenset(("label", "label!", "until"))
_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_. -]*[a-zA-Z0-9_.-])?")
_CONNECT_SECONDS = 30.0
_SHARED = "container sharing network namespace with another container or host cannot be connected to any other network"
_HOST = "container cannot be disconnected from host network or connected to host network"
_NONE = "container cannot be connected to multiple networks with one of the networks in private (none) mode"


@dataclass(slots=True, kw_only=True)
class Networks:
    """The use-cases about networks."""

    records: Records
    networking: Networking
    bundles: Bundles
    actors: Actors
    resolving: Resolving
    relaying: Relaying
    unique_local: Sequence[blocks.Pool] = blocks.unique_local("")
    _making: asyncio.Lock = field(default_factory=asyncio.Lock)
    _pruning: bool = False

    # ---- networks ----

    async def create(self, wanted: NetworkRecord) -> NetworkRecord:
        """A new network. Raises Conflict for a name that is taken, Forbidden for a subnet that is, InvalidArgument."""
        _check(wanted)
        async with self._making:
            if any(each.name == wanted.name for each in self.networking.known):
                raise Conflict(f"network with name {wanted.name} already exists")
            # Another installation sees what was chosen by the bridge's route.
            async with self.networking.choosing():
                network = await self._complete(wanted)
                await self.actors.shielded(self._add(network), "create network")
        return network

    def select(self, filters: Filters) -> list[NetworkRecord]:
        """The networks that match. Raises InvalidArgument for a bad filter."""
        check_keys(filters, LIST_KEYS)
        dangling = boolean(filters, "dangling")
        for kind in filters.get("type", ()):
            if kind not in ("custom", "builtin"):
                raise InvalidArgument(f"invalid filter: 'type'='{kind}'")
        found = [network for network in self.networking.known if self._matches(network, filters)]
        if dangling is None:
            return found
        unused = {network.id for network in self._unused({}, ())}
        return [network for network in found if (network.id in unused) is dangling]

    def find(self, ref: str) -> NetworkRecord:
        return self.networking.known.find(ref)

    def members(self, network: NetworkRecord) -> list[tuple[Container, NetworkEndpoint]]:
        """The containers that run on it."""
        return [
            (container, endpoint)
            for container in self.records.index.members(network.id)
            for endpoint in container.endpoints
            if endpoint.network_id == network.id
        ]

    async def remove(self, ref: str) -> None:
        """Raises NotFound; Forbidden with Docker's texts for a predefined one and one in use."""
        network = self.find(ref)
        if network.name in PREDEFINED and not self.networking.known.is_users(network):
            raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
        async with self._making:
            members = self.members(network)
            if members:
                listed = ", ".join(f'name:"{each.name}" id:"{end.endpoint_id[:12]}"' for each, end in members)
                raise Forbidden(f"error while removing network: network {network.name} has active endpoints ({listed})")
            await self.actors.shielded(self._drop(network), "remove network")

    async def prune(self, filters: Filters) -> list[str]:
        """Remove the users' networks that no container is configured for; their names."""
        check_keys(filters, PRUNE_KEYS)
        before = [parse_moment(text, time.time_ns()) for text in filters.get("until", ())]
        if self._pruning:
            raise Conflict("a prune operation is already running")
        self._pruning = True
        try:
            gone = [network.name for network in self._unused(filters, before) if await self._removed(network)]
            await self.records.commit(Change(events=(of_prune("network", 0),)))
            return gone
        finally:
            self._pruning = False

    # ---- containers on networks ----

    async def connect(self, ref: str, container_ref: str, wish: NetworkEndpoint) -> None:
        """Put a container on one more network. Raises Forbidden, InvalidArgument, NotFound with Docker's texts.

        One that does not run may be promised a network that there is not yet: its start looks for it.
        """
        container = self.records.index.find(container_ref)

        async def work() -> None:
            current = self.records.index.get(container.id)
            if current.phase.alive:
                await self._connect(current, self.find(ref), wish)
            else:
                await self._promise(current, ref, wish)

        await self.actors.perform(container.id, "connect", work, seconds=_CONNECT_SECONDS)

    async def disconnect(self, ref: str, container_ref: str, *, force: bool) -> None:
        """Take a container off a network. Raises Forbidden, NotFound with Docker's texts."""
        try:
            container = self.records.index.find(container_ref)
        except NotFound as missing:
            if not force:
                raise
            self.find(ref)
            raise NotFound(f"endpoint {container_ref} not found") from missing

        async def work() -> None:
            current = self.records.index.get(container.id)
            if current.phase.alive and (self._is_there(ref) or not force):
                await self._disconnect(current, self.find(ref))
            else:
                await self._promise_no_more(current, ref)

        await self.actors.perform(container.id, "disconnect", work, seconds=_CONNECT_SECONDS)

    async def _connect(self, container: Container, network: NetworkRecord, wish: NetworkEndpoint) -> None:
        _check_connection(container, network)
        wish = replace(wish, network_id=network.id, network_name=network.name)
        check_wish(wish, network, self.networking)
        if any(each.network_id == network.id for each in container.endpoints):
            raise Forbidden(f"endpoint with name {container.name} already exists in network {network.name}")
        plugged = await self.networking.plug_live(container, wish, network)
        failpoints.hit("manager.connect.plugged")
        await self._replugged(container, plugged, network, "connect")

    async def _promise(self, container: Container, ref: str, wish: NetworkEndpoint) -> None:
        """As Docker has it: what it is on stays as asked for first; what there is not yet is as asked for last."""
        try:
            network = self.find(ref)
        except NotFound:
            kept = tuple(each for each in container.endpoints if each.network_name != ref)
            wish = replace(wish, network_id="", network_name=ref)
        else:
            kept = container.endpoints
            _check_connection(container, network)
            wish = replace(wish, network_id=network.id, network_name=network.name)
            check_wish(wish, network, self.networking)
            if any(network.id == each.network_id or each.network_name == network.name for each in kept):
                return
        await self.records.commit(Change(update=replace(container, endpoints=(*kept, wish))), durable=True)

    async def _disconnect(self, container: Container, network: NetworkRecord) -> None:
        if network.driver == "host" and attachment(container.spec) is Attachment.HOST:
            raise InvalidArgument(_HOST)
        if all(each.network_id != network.id for each in container.endpoints):
            raise Internal(f"container {container.id} is not connected to network {network.name}")
        left = self.networking.parting(container, network)
        # The record goes first: what a crash after it leaves plugged is swept by the next start, as nobody's.
        await self._replugged(container, left, network, "disconnect")
        try:
            await self.networking.unplug_live(container, network, left)
        except BulkheadError:
            # Nothing was freed.
            await self._replugged(container, _as_it_is(container), network, "connect")
            await self.networking.keep(container)
            raise
        except asyncio.CancelledError:
            self._settle_later(container, network)
            raise

    async def _promise_no_more(self, container: Container, ref: str) -> None:
        with contextlib.suppress(NotFound):
            ref = self.find(ref).name
        left = tuple(each for each in container.endpoints if each.network_name != ref)
        if len(left) == len(container.endpoints):
            raise Internal(f"container {container.id} is not connected to the network {ref}")
        await self.records.commit(Change(update=replace(container, endpoints=left)), durable=True)

    async def _replugged(self, container: Container, now: Plugged, network: NetworkRecord, action: str) -> None:
        """Have files and record as they are to be. When that fails it is on `network` if its record says so."""
        changed = replace(container, endpoints=now.endpoints, attachments=now.attachments)
        # Before it is taken off, and after it has been put on.
        plugged = changed if action == "connect" else container
        shown = next(each for each in (*now.endpoints, *container.endpoints) if each.network_id == network.id)
        change = Change(update=changed, events=(of_network(changed, shown, action),))
        naming = asyncio.ensure_future(asyncio.to_thread(self.bundles.name_addresses, changed, now.endpoints))
        try:
            await asyncio.shield(naming)
            await self.resolving.renew(changed)
            await self.relaying.renew(changed)
            failpoints.hit("manager.connect.named")
            await self.records.commit(change, durable=True)
        except asyncio.CancelledError:
            self._settle_later(plugged, network, naming)
            raise
        except BaseException:
            await self._settle(plugged, network)
            raise
        failpoints.hit("manager.connect.recorded")

    def _settle_later(self, plugged: Container, network: NetworkRecord, *after: asyncio.Future[None]) -> None:
        settle = partial(self._settle, plugged, network)
        settle_later(self.records, self.actors, plugged.id, settle, seconds=_CONNECT_SECONDS, after=after)

    async def _settle(self, plugged: Container, network: NetworkRecord) -> None:
        """Have kernel and files as the record says of a container that is plugged into a network, and maybe ought not
        to be."""
        if not self.records.index.knows(plugged.id):
            return
        current = self.records.index.get(plugged.id)
        if current.started_at != plugged.started_at or not current.phase.alive:
            return
        if all(each.network_id != network.id for each in current.endpoints):
            await self.networking.unplug_live(plugged, network, _as_it_is(current))
        else:
            await self.networking.keep(current)
        with contextlib.suppress(BulkheadError):
            await asyncio.to_thread(self.bundles.name_addresses, current, current.endpoints)
            await self.resolving.renew(current)
            await self.relaying.renew(current)

    # ---- inside ----

    async def _add(self, network: NetworkRecord) -> None:
        await self.networking.add(network)
        try:
            event = about_network(network, "create")
            await self.records.commit(Change(network=network, events=(event,)), durable=True)
            failpoints.hit("manager.network.recorded")
        except BaseException:
            await self.networking.drop(network)
            raise

    async def _drop(self, network: NetworkRecord) -> None:
        """The kernel first: it refuses when somebody is just being plugged in. A crash before the record is gone leaves
        a network without its bridge, which the next start makes again."""
        # Until the record is gone, and the bridge need not come back, its subnet is nobody else's to choose.
        async with self.networking.choosing():
            await self.networking.drop(network)
            failpoints.hit("manager.network.dropped")
            try:
                event = about_network(network, "destroy")
                await self.records.commit(Change(drop_network=network.id, events=(event,)), durable=True)
            except BaseException:
                await self.networking.restore(network)
                raise
        failpoints.hit("manager.network.forgotten")

    async def _complete(self, wanted: NetworkRecord) -> NetworkRecord:
        """With an id and a subnet that is free."""
        identity = secrets.token_hex(32)
        families = ((4, wanted.enable_ipv4, blocks.DEFAULT_POOLS), (6, wanted.enable_ipv6, self.unique_local))
        asked = [(version, pools) for version, enabled, pools in families if enabled]
        searched = [pool for version, pools in asked for pool in blocks.searched(wanted.blocks, pools, version=version)]
        survey = await self.networking.look(bridge_name(identity, wanted.options), searched)
        taken = subnets_of(self.networking.known)
        routed = [destination for destination, _ in survey.routes if destination.prefixlen > 1]
        network = replace(
            wanted,
            id=identity,
            blocks=tuple(
                blocks.choose(wanted.blocks, taken, routed, pools, version=version, bridge=wanted.driver == "bridge")
                for version, pools in asked
            ),
            chosen_subnet=any(each.subnet for each in wanted.blocks),
            created_at=time.time_ns(),
        )
        plan = plan_of(network)
        if isinstance(plan, BridgePlan) and plan.bridge in survey.interfaces:
            raise Forbidden(f"networks have same bridge name: {plan.bridge} is in use")
        return network

    def _is_there(self, ref: str) -> bool:
        try:
            self.find(ref)
        except NotFound:
            return False
        return True

    def _matches(self, network: NetworkRecord, filters: Filters) -> bool:
        if not matches_labels(network.labels, filters.get("label", ())):
            return False
        users = self.networking.known.is_users(network)
        tests: Mapping[str, Callable[[str], bool]] = {
            "driver": lambda value: network.driver == value,
            "id": lambda value: network.id.startswith(value),
            "name": lambda value: value in network.name,
            "scope": lambda value: value == "local",
            "type": lambda value: value == ("custom" if users else "builtin"),
        }
        return all(any(test(value) for value in filters[key]) for key, test in tests.items() if filters.get(key))

    def _unused(self, filters: Filters, before: Sequence[int]) -> list[NetworkRecord]:
        used = {each.network_id for container in self.records.index for each in container.endpoints}
        return [
            network
            for network in self.records.networks.values()
            if network.id not in used
            and not any(network.created_at > moment for moment in before)
            and fits_labels(network.labels, filters)
        ]

    async def _removed(self, network: NetworkRecord) -> bool:
        try:
            await self.remove(network.id)
        except BulkheadError:
            return False  # used or removed meanwhile
        return True


def _as_it_is(container: Container) -> Plugged:
    return Plugged(endpoints=container.endpoints, attachments=container.attachments)


def check_wish(wish: NetworkEndpoint, network: NetworkRecord, networking: Networking) -> None:
    """Raise InvalidArgument with Docker's texts for what this network cannot give."""
    users = networking.known.is_users(network)
    for each in wish.link_local_addresses:
        parse_link_local(each)
    if wish.aliases and not users:
        raise InvalidArgument("network-scoped alias is supported only for containers in user defined networks")
    for version, fixed in ((4, wish.fixed_address), (6, wish.fixed_address6)):
        if not fixed:
            continue
        if not _is_address(fixed, version):
            raise InvalidArgument(f"invalid IPv{version} address: {fixed}")
        if not users:
            raise InvalidArgument("user specified IP address is supported on user defined networks only")
        if not network.chosen_subnet or not any(blocks.version_of(block) == version for block in network.blocks):
            raise InvalidArgument(
                "user specified IP address is supported only when connecting to networks with user configured subnets"
            )


def _is_address(text: str, version: int) -> bool:
    try:
        return ip_address(text).version == version
    except ValueError:
        return False


def _check_connection(container: Container, network: NetworkRecord) -> None:
    """As Docker has it, but that nobody is promised a network who never gets one: who shares a namespace."""
    way = attachment(container.spec)
    if way is Attachment.SHARED:
        raise InvalidArgument(_SHARED)
    if way is Attachment.HOST and network.driver != "host":
        raise InvalidArgument(_SHARED)
    if way is not Attachment.HOST and network.driver == "host":
        raise InvalidArgument(_HOST)
    others = {each.network_name for each in container.endpoints} - {network.name}
    if container.spec.network_disabled or "none" in others or (others and network.driver == "null"):
        raise InvalidArgument(_NONE)


def _check(wanted: NetworkRecord) -> None:
    if not wanted.name:
        raise InvalidArgument("network name cannot be empty")
    if wanted.name in PREDEFINED or wanted.name == "default":
        raise Forbidden(f"operation is not permitted on predefined {wanted.name} network")
    if _NAME.fullmatch(wanted.name) is None:
        raise InvalidArgument(
            f"invalid network name: {wanted.name}: it must begin with a letter or digit and hold only [a-zA-Z0-9_. -]"
        )
    _check_driver(wanted.driver)
    if not wanted.enable_ipv4 and not wanted.enable_ipv6:
        raise InvalidArgument("IPv4 or IPv6 must be enabled")


def _check_driver(driver: str) -> None:
    if driver == "overlay":
        raise Forbidden(
            'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to '
            "swarm and try again."
        )
    if driver in ("host", "null"):
        raise Forbidden(f'only one instance of "{driver}" network is allowed')
    if driver != "bridge" and driver not in DRIVERS:
        raise NotFound(f'plugin "{driver}" not found')


def initial_endpoints(
    mode: str, told: Iterable[NetworkEndpoint], networking: Networking
) -> tuple[NetworkEndpoint, ...]:
    """The networks of a new container: its own first, then the others that its client named.

    One that is not known yet is kept as named. Raises InvalidArgument for wishes that cannot come true.
    """
    by_name = {each.network_name: each for each in told}
    own = mode or "bridge"
    names = [own, *(name for name in by_name if name != own)]
    found = [_known(by_name.get(name, NetworkEndpoint(network_name=name)), networking) for name in names]
    unique: dict[str, NetworkEndpoint] = {}
    for each in found:
        unique.setdefault(each.network_id or each.network_name, each)
    called = {each.network_name for each in unique.values()}
    if len(called) > 1 and "host" in called:
        raise InvalidArgument(_SHARED)
    if len(called) > 1 and "none" in called:
        raise InvalidArgument(_NONE)
    return tuple(unique.values())


def _known(wish: NetworkEndpoint, networking: Networking) -> NetworkEndpoint:
    try:
        network = networking.known.find(wish.network_name)
    except NotFound:
        return wish
    check_wish(wish, network, networking)
    return replace(wish, network_id=network.id, network_name=network.name)
