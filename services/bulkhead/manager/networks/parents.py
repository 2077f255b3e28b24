"""Networks on an interface of the host: containers have links of it (macvlan, ipvlan), and so a place on its wire.

The host forwards nothing for them and publishes no ports; who is on the wire reaches them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import structlog

from bulkhead.errors import BulkheadError, Conflict, Forbidden, InvalidArgument, NotFound
from bulkhead.manager.networks.leases import Leases
from bulkhead.manager.networks.link_options import why_not_made
from bulkhead.manager.networks.macs import mac_of, parse_mac
from bulkhead.manager.networks.ports import FAMILIES, AddressWish, Branch, Branches, Parent, Survey
from bulkhead.model.network import Endpoint, IPInterface, LinkPlan, Netns, Reconciled

_log = structlog.get_logger()
# How parents that we made are told from the host's own, besides the alias.
_OWN_KINDS = frozenset(("vlan", "dummy", "veth"))
# Whoever has these reaches the world through the host's own routes, which know no gateway there.
_GATEWAYLESS = frozenset(("l3", "l3s"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Net:
    """One network: its plan, and who has which of its addresses."""

    plan: LinkPlan
    leases: Leases


class ParentNetworks:
    """The part of `bulkhead.manager.networks.ports.Network` that is about networks with a `LinkPlan`."""

    def __init__(self, kernel: Branches, alias: str) -> None:
        self._kernel = kernel
        self._alias = alias
        self._nets: dict[str, _Net] = {}
        self._live: dict[tuple[str, str], Endpoint] = {}
        self._pending: set[tuple[str, str]] = set()
        self._adopted = False

    def __contains__(self, key: str) -> bool:
        return key in self._nets

    def plan(self, wanted: LinkPlan) -> None:
        self._nets[wanted.key] = _Net(plan=wanted, leases=Leases(wanted.families))

    async def forget(self, key: str) -> None:
        if any(endpoint.network == key for endpoint in self._live.values()):
            raise Conflict(f"cannot remove network {key}: containers are plugged into it")
        if self._nets.pop(key, None) is None:
            return
        try:
            await self._converge()
        except BulkheadError as error:
            _log.warning("cannot take away all of a network", network=key, reason=str(error))

    async def ensure(self, key: str) -> None:
        """Make the parent if it must be made, and see that the kernel can branch off it."""
        plan = self._net(key).plan
        self._refuse_clash(plan)
        await self._stand(plan, await self._kernel.survey())
        await self._kernel.try_out(_branch(plan, "eth0", _TRIAL_MAC))

    async def reconcile(self, live: Iterable[Endpoint]) -> Reconciled:
        self._adopted = True
        pending = {place: endpoint for place, endpoint in self._live.items() if place in self._pending}
        self._live = {_place(endpoint): endpoint for endpoint in live} | pending
        for net in self._nets.values():
            net.leases.forget()
        for endpoint in self._live.values():
            net_of = self._nets.get(endpoint.network)
            if net_of is not None and not net_of.leases.claim(endpoint):
                _log.error("two live containers have one address", id=endpoint.container_id)
        return await self._converge()

    async def attach(
        self,
        container_id: str,
        netns: Netns,
        *,
        network: str,
        interface: str = "eth0",
        routed: Collection[int] = FAMILIES,
        wishes: Sequence[AddressWish] = (),
        mac: str | None = None,
        link_local: Sequence[IPInterface] = (),
    ) -> Endpoint:
        net = self._net(network)
        given = net.leases.take(container_id, wishes)
        try:
            endpoint = Endpoint(
                container_id=container_id,
                mac=mac_of(given[0]) if mac is None else parse_mac(mac),
                host_interface=net.plan.parent,
                network=network,
                interface=interface,
                **net.leases.fields(given),
            )
            self._live[_place(endpoint)] = endpoint
            self._pending.add(_place(endpoint))
            branch = self._branch_of(endpoint, routed)
            await self._graft(netns, replace(branch, addresses=(*branch.addresses, *link_local)))
        except BaseException:
            net.leases.release(container_id, given)
            self._live.pop((network, container_id), None)
            raise
        finally:
            self._pending.discard((network, container_id))
        return endpoint

    async def detach(self, endpoint: Endpoint) -> None:
        known = self._live.pop(_place(endpoint), None)
        net = self._nets.get(endpoint.network)
        if known is not None and net is not None:
            net.leases.release(known.container_id, [each.ip for each in known.addresses])

    async def unplug(self, endpoint: Endpoint, netns: Netns) -> None:
        try:
            await self._kernel.cut(netns, endpoint.interface)
        except asyncio.CancelledError:
            # Whether it had begun is not known.
            await self._kernel.cut(netns, endpoint.interface)
            await self.detach(endpoint)
            raise
        await self.detach(endpoint)

    async def route(self, netns: Netns, endpoint: Endpoint, families: Collection[int] = FAMILIES) -> None:
        await self._kernel.lead(netns, self._branch_of(endpoint, families))

    async def clear(self, netns: Netns, kept: Collection[Endpoint]) -> None:
        parents = {net.plan.parent for net in self._nets.values()}
        if parents:
            await self._kernel.clear(netns, parents, [endpoint.interface for endpoint in kept])

    async def teardown(self) -> None:
        self._nets.clear()
        self._live.clear()
        self._adopted = True
        await self._converge()

    async def _graft(self, netns: Netns, branch: Branch) -> None:
        """Make the link, or leave nothing. One whose awaiter is cancelled may have been made."""
        try:
            await self._kernel.graft(netns, branch)
        except asyncio.CancelledError:
            await self._kernel.cut(netns, branch.interface)
            raise

    def _net(self, key: str) -> _Net:
        net = self._nets.get(key)
        if net is None:
            raise NotFound(f"network {key} not found")
        return net

    def _branch_of(self, endpoint: Endpoint, routed: Collection[int]) -> Branch:
        plan = self._net(endpoint.network).plan
        out = () if plan.internal else [each for each in endpoint.gateways if each.version in routed]
        direct = plan.mode in _GATEWAYLESS
        return replace(
            _branch(plan, endpoint.interface, endpoint.mac),
            addresses=endpoint.addresses,
            gateways=() if direct else tuple(out),
            direct=tuple(each.version for each in out) if direct else (),
        )

    def _refuse_clash(self, plan: LinkPlan) -> None:
        """Several networks may share a parent, unless one wants it for itself (Docker's rules and texts)."""
        others = [net.plan for net in self._nets.values() if net.plan.parent == plan.parent and net.plan is not plan]
        for other in others:
            named = f"{other.driver} network {other.key[:12]}"
            if other.driver != plan.driver or plan.driver == "ipvlan":
                raise Forbidden(f"network {other.key[:12]} is already using parent interface {plan.parent}")
            if plan.mode == "passthru":
                raise Forbidden(f"cannot use mode passthru, {named} is already using parent interface {plan.parent}")
            if other.mode == "passthru":
                raise Forbidden(f"{named} is already using parent interface {plan.parent} in mode passthru")

    async def _stand(self, plan: LinkPlan, survey: Survey) -> bool:
        """Have the parent there; whether it had to be made. Raises InvalidArgument when it cannot be ours to make."""
        if plan.parent in survey.interfaces:
            return False
        if not plan.is_own:
            raise InvalidArgument(why_not_made(plan.parent))
        if plan.base and plan.base not in survey.interfaces:
            raise InvalidArgument(f"-o parent interface was not found on the host: {plan.base}")
        await self._kernel.make_parent(Parent(name=plan.parent, base=plan.base, vlan=plan.vlan, alias=self._alias))
        return True

    async def _converge(self) -> Reconciled:
        """Make the parents that are lacking, and delete those of ours that nobody stands on any more."""
        survey = await self._kernel.survey()
        for net in self._nets.values():
            try:
                await self._stand(net.plan, survey)
            except BulkheadError as error:
                _log.error("a network cannot be made", network=net.plan.key, reason=str(error))
        planned = {net.plan.parent for net in self._nets.values()}
        stale = tuple(
            name
            for name, found in survey.interfaces.items()
            if self._adopted and found.alias == self._alias and found.kind in _OWN_KINDS and name not in planned
        )
        if stale:
            await self._kernel.delete_links(stale)
        return Reconciled(links_deleted=stale)


_TRIAL_MAC = "02:42:00:00:00:01"


def _branch(plan: LinkPlan, interface: str, mac: str) -> Branch:
    return Branch(
        driver=plan.driver,
        parent=plan.parent,
        mode=plan.mode,
        flag=plan.flag,
        interface=interface,
        mac=mac,
        mtu=plan.mtu,
    )


def _place(endpoint: Endpoint) -> tuple[str, str]:
    return endpoint.network, endpoint.container_id
