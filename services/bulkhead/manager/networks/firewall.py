"""The keeper of the network's nftables tables: what a container changes in them, and how all is made right."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import structlog

from bulkhead.errors import BulkheadError, Conflict, Internal
from bulkhead.manager.networks import antispoof, opening, publish, tables
from bulkhead.manager.networks.opening import ForwardChain
from bulkhead.manager.networks.ports import Bridge, ElementChange, EndpointChange, Kernel
from bulkhead.manager.networks.tables import Elements, Keys, Layout, Table
from bulkhead.model.network import Endpoint
from bulkhead.model.replacing import replace

_log = structlog.get_logger()
_LAYOUTS = (publish.LAYOUT, antispoof.LAYOUT)
# What somebody has in each of these.
_Places = tuple[Elements, Elements]


class Firewall:
    """The tables `inet <name>` and, where the kernel can, `bridge <name>`.

    `bridges` and `live` give all bridges and live endpoints: what the tables are made of when they must be mended.
    With `opens` other firewalls that drop forwarded packets by default are told to let our bridges through, by rules
    whose comments begin with `mark`.
    """

    def __init__(
        self,
        kernel: Kernel,
        name: str,
        bridges: Callable[[], Sequence[Bridge]],
        live: Callable[[], Iterable[Endpoint]],
        *,
        mark: str,
        opens: bool = True,
    ) -> None:
        self._kernel = kernel
        self._name = name
        self._bridges = bridges
        self._live = live
        self.mark, self._opens = mark, opens
        self.overlapping = False  # some bridges' subnets are parts of others', and so are their places in the tables
        self._opened: tuple[ForwardChain, ...] = ()  # as they were when all was looked at
        self._guards_bridges: bool | None = None
        self._warned = False
        self._begun = 0  # admissions and dismissals so far
        # What is being admitted or dismissed, by its interface; and what has been since a look at the tables began,
        # while it lasts: its elements in each table.
        self._changing: dict[str, _Places] = {}
        self._unsettled: dict[str, _Places] = {}
        self._looks = False
        self._writer = asyncio.Lock()

    @contextlib.contextmanager
    def admission(self, endpoint: Endpoint) -> Iterator[EndpointChange]:
        """What publishes the endpoint's ports and gives it its address; to be carried out before the block ends.

        Until then its elements are nobody else's to add or to take away.
        """
        places = _places_of(endpoint)
        with self._change(endpoint.host_interface, places):
            yield _change_of(endpoint, self._additions(places))

    @contextlib.contextmanager
    def dismissal(self, endpoint: Endpoint) -> Iterator[EndpointChange]:
        """The opposite; right for one that was not admitted, too."""
        places = _places_of(endpoint)
        with self._change(endpoint.host_interface, places):
            yield _change_of(endpoint, self._removals(places))

    @contextlib.contextmanager
    def exchange(self, before: Sequence[Endpoint], after: Sequence[Endpoint]) -> Iterator[EndpointChange]:
        """What has the ports of endpoints be as they are `after`, who were admitted as they are `before`; likewise."""
        were, are = _published_by(before), _published_by(after)
        gone, new = tables.besides(were, are), tables.besides(are, were)
        udp = {port for each in (*before, *after) for port in _udp_ports(each)}
        with self._change(after[0].host_interface, (tables.joined([were, are]), {})):
            steps = [*self._removals((gone, {})), *self._additions((new, {}))]
            yield EndpointChange(elements=steps, udp_ports=sorted(udp))

    @contextlib.contextmanager
    def admission_of_bridge(self, bridge: Bridge) -> Iterator[Sequence[ElementChange]]:
        """What gives a bridge its place in the tables; likewise. `open_to` is to follow."""
        places = _places_of_bridge(bridge)
        with self._change(bridge.name, places):
            yield self._additions(places)

    @contextlib.contextmanager
    def dismissal_of_bridge(self, bridge: Bridge) -> Iterator[Sequence[ElementChange]]:
        """The opposite, for one that is there. `close_to` is to follow."""
        places = _places_of_bridge(bridge)
        with self._change(bridge.name, places):
            yield [replace(change, delete=True) for change in self._additions(places)]

    @contextlib.contextmanager
    def _change(self, name: str, places: _Places) -> Iterator[None]:
        self._begun += 1
        self._changing[name] = places
        if self._looks:
            self._unsettled[name] = places
        try:
            yield
        finally:
            self._changing.pop(name, None)

    def _additions(self, places: _Places) -> list[ElementChange]:
        return [step for layout, held in self._guarded(places) for step in layout.additions(self._name, held)]

    def _removals(self, places: _Places) -> list[ElementChange]:
        return [step for layout, held in self._guarded(places) for step in layout.removals(self._name, held)]

    def _guarded(self, places: _Places) -> Iterable[tuple[Layout, Elements]]:
        """Each table's layout with what is to be in it, of the tables that there are."""
        return zip(_LAYOUTS if self._guards_bridges else _LAYOUTS[:1], places, strict=False)

    async def converge(self, *, prune: bool) -> int:
        """Make the tables hold what they should; the number of changes. Without `prune` no element is taken away."""
        async with self._writer:
            # Once: it lists what the whole machine has.
            others = await self._others()
            uplinks = await self._fenced(others)
            done = 0
            while commands := await self._commands(uplinks, prune=prune):
                begun = self._begun
                try:
                    await self._kernel.apply(commands)
                    done += len(commands)
                except (Conflict, Internal):
                    if self._begun == begun:
                        raise
                # Containers come and go meanwhile: what was right then may be wrong now.
                if self._begun == begun:
                    break
            return done + await self._open(others)

    async def open_to(self, bridge: Bridge, *, prune: bool) -> None:
        """Have the firewalls that were opened accept one bridge more, when its place in the tables is right.

        Who begins to drop is heard of otherwise: where none did nobody is asked, which costs more than a bridge does.
        """
        async with self._writer:
            done = [
                await self._change_other(chain, opening.additions(chain, self.mark, bridge.name))
                for chain in self._opened
            ]
        if not all(done):
            await self.converge(prune=prune)

    async def close_to(self, bridge: Bridge, *, prune: bool) -> None:
        """The opposite."""
        comments = opening.comments(self.mark, bridge.name)
        async with self._writer:
            done = [await self._close(chain, comments) for chain in self._opened]
        if not all(done):
            await self.converge(prune=prune)

    async def _close(self, chain: ForwardChain, comments: Sequence[str]) -> bool:
        handles = await self._kernel.rule_handles(chain.family, chain.table, chain.place, comments)
        return not handles or await self._change_other(chain, opening.removals(chain, handles)) > 0

    @property
    def opened(self) -> frozenset[tuple[str, str]]:
        """(table, chain) of others with rules of ours."""
        return frozenset((chain.table, chain.place) for chain in self._opened)

    async def warn_of_others(self) -> None:
        """Tell the operator, once, of firewalls that will drop what ours lets through, and that we do not open."""
        async with self._writer:
            if self._warned:
                return
            chains = await self._others()
            self._warned = True
            drops = [str(each) for each in chains if each.drops and not (self._opens and each.can_open)]
            # Nothing hangs on the answer.
            with contextlib.suppress(BulkheadError):
                if await self._kernel.legacy_forward_drop():
                    drops.append("legacy iptables filter FORWARD")
        for chain in drops:
            _log.warning(
                "another firewall drops forwarded packets by default: containers reach each other, the world and are "
                "reached from outside only if it accepts their bridge",
                chain=chain,
                bridges=[bridge.name for bridge in self._bridges()],
            )

    async def remove(self) -> None:
        """Remove the tables."""
        async with self._writer:
            for family in ("inet", "bridge"):
                if await self._kernel.table(family, self._name) is not None:
                    await self._kernel.apply([f"delete table {family} {self._name}"])
            for chain in await self._others():
                await self._change_other(chain, opening.changes(chain, self.mark, []))

    async def _others(self) -> Sequence[ForwardChain]:
        return opening.chains(await self._kernel.forward_chains(besides=self._name), besides=self._name)

    def _is_opened(self, chain: ForwardChain) -> bool:
        return self._opens and chain.drops and chain.can_open

    async def _open(self, others: Sequence[ForwardChain]) -> int:
        """Have other firewalls that drop by default accept our bridges, and no others keep rules of ours."""
        bridges = [bridge.name for bridge in self._bridges()]
        done = 0
        for chain in others:
            accepted = bridges if self._is_opened(chain) else []
            commands = opening.changes(chain, self.mark, accepted)
            done += await self._change_other(chain, commands)
        self._opened = tuple(chain for chain in others if self._is_opened(chain))
        return done

    async def _change_other(self, chain: ForwardChain, commands: Sequence[str]) -> int:
        """Change another's chain; it has the right to refuse, or to change under our hands: then it is told."""
        if not commands:
            return 0
        try:
            await self._kernel.apply(commands)
        except BulkheadError as error:
            _log.warning("cannot open another firewall for containers", chain=str(chain), reason=str(error))
            return 0
        added = [command for command in commands if not command.startswith("delete")]
        if added:
            _log.warning(
                "another firewall drops forwarded packets by default: it was told to accept containers' bridges, "
                "open_forward in [manager] says whether",
                chain=str(chain),
                rules=added,
            )
        return len(commands)

    async def _commands(self, uplinks: Sequence[str] | None, *, prune: bool) -> list[str]:
        """What makes the tables right. The elements of who comes or goes just now are right either way: whoever
        carries that out has us look again if the kernel refuses."""
        layouts = _LAYOUTS if await self._can_guard_bridges() else _LAYOUTS[:1]
        with self._looking():
            listed = [await self._kernel.table(layout.family, self._name) for layout in layouts]
            unsettled = list(self._unsettled.values())
        commands: list[str] = []
        # By the books of now: nothing is awaited any more.
        for wanted, spared, objects in zip(self._wanted(uplinks), _spared(unsettled), listed, strict=False):
            found = tables.actual(wanted.family, wanted.name, objects)
            commands += tables.changes(wanted, found, prune=prune, spared=spared)
        return commands

    @contextlib.contextmanager
    def _looking(self) -> Iterator[None]:
        self._unsettled, self._looks = dict(self._changing), True
        try:
            yield
        finally:
            self._unsettled, self._looks = {}, False

    def _wanted(self, uplinks: Sequence[str] | None) -> list[Table]:
        live, bridges = list(self._live()), self._bridges()
        wanted = publish.desired(self._name, bridges, live, uplinks)
        self.overlapping = publish.are_overlapping(bridges)
        return [wanted, antispoof.desired(self._name, bridges, live)]

    async def _fenced(self, others: Sequence[ForwardChain]) -> Sequence[str] | None:
        """The host's own ways out, when we open a firewall that keeps strangers from bridges of others."""
        if not any(self._is_opened(chain) for chain in others):
            return None
        survey = await self._kernel.survey()
        return sorted({name for destination, name in survey.routes if name and destination.prefixlen <= 1})

    async def _can_guard_bridges(self) -> bool:
        if self._guards_bridges is None:
            try:
                await self._kernel.apply(antispoof.probe(self._name))
            except Internal as error:
                _log.warning("containers can use each other's addresses on this kernel", reason=str(error))
                self._guards_bridges = False
            else:
                self._guards_bridges = True
        return self._guards_bridges


def _change_of(endpoint: Endpoint, elements: Sequence[ElementChange]) -> EndpointChange:
    return EndpointChange(elements=elements, udp_ports=sorted(_udp_ports(endpoint)))


def _udp_ports(endpoint: Endpoint) -> set[tuple[int, int]]:
    return {(port.version, port.host_port) for port in endpoint.ports if port.protocol == "udp" and port.host_port}


def _published_by(endpoints: Iterable[Endpoint]) -> Elements:
    return tables.joined([publish.elements_of(each) for each in endpoints])


def _places_of(endpoint: Endpoint) -> _Places:
    return publish.elements_of(endpoint), antispoof.elements_of(endpoint)


def _places_of_bridge(bridge: Bridge) -> _Places:
    return publish.elements_of_bridge(bridge), antispoof.elements_of_bridge(bridge)


def _spared(changing: Sequence[_Places]) -> list[Keys]:
    """By table: the elements of these."""
    return [tables.keys(places[number] for places in changing) for number in range(len(_LAYOUTS))]
