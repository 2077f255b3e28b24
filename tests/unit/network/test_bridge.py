"""The default network's decisions: what it makes of failures, cancellations and a clumsy operator."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Interface, ip_address, ip_network
from pathlib import Path

import pytest
import structlog

from bulkhead.errors import BulkheadError, Conflict, Internal, InvalidArgument, Unavailable
from bulkhead.manager.networks.bridge import BridgeNetwork
from bulkhead.model.instance import Instance
from bulkhead.model.network import AddressPlan, BridgePlan, PortBinding
from tests.support.fake_network import FakeKernel, fake_network

ID = "a" * 64
WEB = PortBinding(container_port=80, host_port=8080)
TABLE = f"inet {Instance().nft_table}"


async def _booted(kernel: FakeKernel, instance: Instance | None = None) -> BridgeNetwork:
    network = fake_network(instance, kernel)
    await network.ensure()
    await network.reconcile([])
    return network


async def _until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until something has come about."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came about")


def _published(kernel: FakeKernel) -> dict[str, str]:
    return kernel.tables[TABLE].elements["published_any"]


async def test_nobody_looks_at_a_bridge_that_is_being_made() -> None:
    """Its route is there before its name: a network could not be made, now and then, while `watch` mended another."""
    kernel = FakeKernel()
    network = fake_network(None, kernel)
    kernel.gates["make_bridge"] = asyncio.Event()
    making = asyncio.create_task(network.ensure())
    await _until(lambda: "make_bridge" in kernel.calls)
    looking = asyncio.create_task(network.ensure())
    for _ in range(100):
        await asyncio.sleep(0)
    assert kernel.calls.count("survey") == 1
    kernel.gates.pop("make_bridge").set()
    await asyncio.gather(making, looking)
    assert (kernel.calls.count("survey"), kernel.calls.count("make_bridge")) == (2, 1)


# What an attachment asks of the kernel; the latter two only when the tables must be mended.
STEPS = ["plug", "table", "apply"]


@pytest.mark.parametrize("step", STEPS)
async def test_a_failed_attachment_leaves_nothing(step: str) -> None:
    kernel = FakeKernel()
    network = await _booted(kernel)
    before = dict(kernel.interfaces)
    kernel.tables.clear()
    kernel.failures[step] = Internal("cannot: no")
    with pytest.raises(Internal):
        await network.attach(ID, 1, ports=[WEB])
    kernel.failures.clear()
    assert kernel.interfaces == before
    await network.ensure()
    assert _published(kernel) == {}
    assert (await network.attach(ID, 1, ports=[WEB])).ports[0].host_port == 8080


@pytest.mark.parametrize("step", STEPS)
async def test_an_attachment_cancelled_in_any_step_leaves_nothing(step: str) -> None:
    kernel = FakeKernel()
    network = await _booted(kernel)
    before = dict(kernel.interfaces)
    if step != "plug":
        kernel.tables.clear()
    kernel.calls.clear()
    kernel.gates[step] = asyncio.Event()
    attaching = asyncio.create_task(network.attach(ID, 1, ports=[WEB]))
    await _until(lambda: step in kernel.calls)
    attaching.cancel()
    kernel.gates.pop(step).set()
    with pytest.raises(asyncio.CancelledError):
        await attaching
    assert kernel.interfaces == before
    await network.ensure()
    assert _published(kernel) == {}
    assert not await network.reconcile([])
    await network.attach(ID, 1, ports=[WEB])


async def test_reconcile_spares_an_attachment_under_way() -> None:
    """The manager reads its records while a start is between veth and record."""
    kernel = FakeKernel()
    network = await _booted(kernel)
    kernel.tables.clear()
    gate = kernel.gates["table"] = asyncio.Event()
    attaching = asyncio.create_task(network.attach(ID, 1, ports=[WEB]))
    await _until(lambda: bool(kernel.wires) and "table" in kernel.calls)
    kernel.calls.clear()
    reconciling = asyncio.create_task(network.reconcile([]))
    await _until(lambda: "configure" in kernel.calls)
    gate.set()
    endpoint = await attaching
    assert (await reconciling).links_deleted == ()
    assert endpoint.host_interface in kernel.interfaces
    assert not await network.reconcile([endpoint])


async def test_a_container_that_goes_while_the_tables_are_mended_is_not_brought_back() -> None:
    """Mending reads the books, then the tables; what it read first may be old by then."""
    kernel = FakeKernel()
    network = await _booted(kernel)
    endpoint = await network.attach(ID, 1, ports=[WEB])
    kernel.calls.clear()
    gate = kernel.gates["table"] = asyncio.Event()
    mending = asyncio.create_task(network.ensure())
    await _until(lambda: "table" in kernel.calls)
    await network.detach(endpoint)
    kernel.netns_dies(1)
    gate.set()
    await mending
    assert kernel.calls.count("forward_chains") == 1, "the whole machine's are listed once"
    assert _published(kernel) == {}
    assert not await network.reconcile([])


async def test_who_mends_leaves_alone_what_is_just_coming() -> None:
    kernel = FakeKernel()
    network = await _booted(kernel)
    kernel.calls.clear()
    gate = kernel.gates["plug"] = asyncio.Event()
    attaching = asyncio.create_task(network.attach(ID, 1, ports=[WEB]))
    await _until(lambda: "plug" in kernel.calls)
    await network.ensure()
    assert _published(kernel) == {}
    gate.set()
    await attaching
    assert "apply" not in kernel.calls
    assert len(_published(kernel)) == 1


async def test_who_mends_leaves_alone_what_has_come_meanwhile() -> None:
    """Else its port and its place on the bridge are taken away for a moment, and somebody is said to have done that."""
    kernel = FakeKernel()
    network = await _booted(kernel)
    kernel.calls.clear()
    gate = kernel.gates["table"] = asyncio.Event()
    mending = asyncio.create_task(network.ensure())
    await _until(lambda: "table" in kernel.calls)
    await network.attach(ID, 1, ports=[WEB])
    gate.set()
    await mending
    assert "apply" not in kernel.calls
    assert len(_published(kernel)) == 1


async def test_who_mends_leaves_alone_what_is_just_going() -> None:
    kernel = FakeKernel()
    network = await _booted(kernel)
    endpoint = await network.attach(ID, 1, ports=[WEB])
    kernel.calls.clear()
    gate = kernel.gates["silence"] = asyncio.Event()
    leaving = asyncio.create_task(network.detach(endpoint))
    await _until(lambda: "silence" in kernel.calls)
    assert not await network.reconcile([])
    gate.set()
    await leaving
    assert not await network.reconcile([])
    assert endpoint.host_interface in kernel.interfaces, "it goes with its namespace"
    assert _published(kernel) == {}


async def test_a_veth_that_stays_after_its_container_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = FakeKernel()
    network = await _booted(kernel)
    endpoint = await network.attach(ID, 1)
    await network.detach(endpoint)
    monkeypatch.setattr("bulkhead.manager.networks.books._LEAVING_SECONDS", 0)
    assert (await network.reconcile([])).links_deleted == (endpoint.host_interface,)


async def test_a_port_is_published_although_someone_deleted_the_table() -> None:
    kernel = FakeKernel()
    network = await _booted(kernel)
    kernel.tables.clear()
    endpoint = await network.attach(ID, 1, ports=[WEB])
    assert _published(kernel) == {"6 . 8080": "172.30.0.2 . 80"}
    assert not await network.reconcile([endpoint])


async def test_detach_works_although_someone_deleted_the_table() -> None:
    kernel = FakeKernel()
    network = await _booted(kernel)
    endpoint = await network.attach(ID, 1, ports=[WEB])
    kernel.tables.clear()
    await network.detach(endpoint)
    assert _published(kernel) == {}


async def test_detach_frees_address_and_port_even_when_the_firewall_is_away() -> None:
    kernel = FakeKernel()
    network = await _booted(kernel)
    endpoint = await network.attach(ID, 1, ports=[WEB])
    kernel.failures["silence"] = Unavailable("cannot change the firewall: away")
    with pytest.raises(Unavailable):
        await network.detach(endpoint)
    kernel.failures.clear()
    kernel.netns_dies(1)
    # The stale element leads to the old address: the new one must win.
    again = await network.attach(ID, 2, ports=[WEB])
    assert _published(kernel) == {"6 . 8080": f"{again.address} . 80"}


async def test_detach_never_deletes_a_veth() -> None:
    """limits.md 1b: 25 ms each; the namespace's death does it for nothing."""
    kernel = FakeKernel()
    network = await _booted(kernel)
    endpoint = await network.attach(ID, 1)
    kernel.calls.clear()
    await network.detach(endpoint)
    assert "delete_links" not in kernel.calls
    assert kernel.silent == {endpoint.host_interface}


async def test_attachment_and_detachment_cost_one_call_of_the_kernel_each() -> None:
    kernel = FakeKernel()
    network = await _booted(kernel)
    kernel.calls.clear()
    await network.detach(await network.attach(ID, 1, ports=[WEB]))
    assert kernel.calls == ["plug", "silence"]


async def test_a_port_that_another_installation_is_just_publishing() -> None:
    kernel = FakeKernel()
    network = await _booted(kernel)
    kernel.reserved_elsewhere.add((WEB.protocol, WEB.host_port))
    with pytest.raises(Internal, match="port is already allocated"):
        await network.attach(ID, 1, ports=[WEB])
    kernel.reserved_elsewhere.clear()
    gate = kernel.gates["plug"] = asyncio.Event()
    attaching = asyncio.create_task(network.attach(ID, 1, ports=[WEB]))
    await _until(lambda: "plug" in kernel.calls)
    assert kernel.reserved == {(WEB.protocol, WEB.host_port)}
    gate.set()
    await attaching
    assert not kernel.reserved


async def test_a_kernel_that_cannot_filter_on_bridges_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = FakeKernel()
    apply = kernel.apply

    async def refuse(commands: list[str]) -> None:
        if any(" bridge " in command for command in commands):
            raise Internal("cannot change the firewall: Operation not supported")
        await apply(commands)

    monkeypatch.setattr(kernel, "apply", refuse)
    network = await _booted(kernel)
    endpoint = await network.attach(ID, 1, ports=[WEB])
    assert list(kernel.tables) == [TABLE]
    assert not await network.reconcile([endpoint])


async def test_the_default_instance_does_not_take_another_ones_veths_for_its_own() -> None:
    """Its prefix begins every other's."""
    kernel = FakeKernel()
    ours = await _booted(kernel)
    other = Instance(run=Path("/run/other"), bridge="bhother0", subnet="10.9.0.0/24")
    theirs = await _booted(kernel, other)
    endpoint = await theirs.attach(ID, 1)
    assert other.veth_prefix.startswith(Instance().veth_prefix)
    # Their bridge is gone, so nothing but the name says whose it is.
    veth = kernel.interfaces[endpoint.host_interface]
    kernel.interfaces[endpoint.host_interface] = replace(veth, master="")
    assert not await ours.reconcile([])
    assert endpoint.host_interface in kernel.interfaces


async def test_interface_names_fit_the_kernel() -> None:
    for instance in (Instance(), Instance(run=Path("/run/other"))):
        endpoint = await (await _booted(FakeKernel(), instance)).attach(ID, 1)
        assert len(endpoint.host_interface) <= 15


@pytest.mark.parametrize("subnet", ["10.0.0.1/24", "fd00::/64", "10.0.0.0/31", "ten", "10.0.0.0/33", ""])
def test_a_subnet_that_is_none_is_refused_by_the_name_of_its_key(subnet: str) -> None:
    with pytest.raises(InvalidArgument, match="subnet"):
        fake_network(Instance(subnet=subnet))


@pytest.mark.parametrize("bridge", ["", "a" * 16, "br 0", '"; flush ruleset', "-br", "../x"])
def test_a_bridge_name_that_is_none_is_refused(bridge: str) -> None:
    with pytest.raises(InvalidArgument, match="BULKHEAD_BRIDGE"):
        fake_network(Instance(bridge=bridge))


async def test_a_split_default_route_clashes_with_nothing() -> None:
    """A VPN's 0.0.0.0/1 and 128.0.0.0/1 cover every subnet there is."""
    kernel = FakeKernel()
    kernel.add_interface("tun0")
    kernel.routes += [(IPv4Interface(half).network, "tun0") for half in ("0.0.0.0/1", "128.0.0.0/1")]
    await _booted(kernel)


async def test_a_subnet_inside_or_around_anothers_is_refused() -> None:
    for taken in ("172.30.9.1/24", "172.16.0.1/12"):
        kernel = FakeKernel()
        kernel.add_interface("eth1", IPv4Interface(taken))
        with pytest.raises(Conflict, match=r"eth1.*BULKHEAD_SUBNET"):
            await fake_network(kernel=kernel).ensure()
        assert kernel.tables == {}


async def test_watch_goes_on_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulkhead.manager.networks.bridge._SETTLE_SECONDS", 0)
    monkeypatch.setattr("bulkhead.manager.networks.bridge._RETRY_SECONDS", 0)
    kernel = FakeKernel()
    network = await _booted(kernel)
    kernel.tables.clear()
    failure: BulkheadError = Unavailable("cannot list nftables table: away")
    kernel.failures["table"] = failure
    kernel.calls.clear()
    watching = asyncio.create_task(network.watch())
    kernel.disturbance.set()
    await _until(lambda: kernel.calls.count("table") >= 3)
    kernel.failures.clear()
    await _until(lambda: TABLE in kernel.tables)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching


async def test_what_could_not_be_taken_away_is_when_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulkhead.manager.networks.bridge._SETTLE_SECONDS", 0)
    monkeypatch.setattr("bulkhead.manager.networks.bridge._RETRY_SECONDS", 0)
    kernel = FakeKernel()
    network = await _booted(kernel)
    endpoint = await network.attach(ID, 1, ports=[WEB])
    watching = asyncio.create_task(network.watch())
    failure: BulkheadError = Unavailable("cannot change the firewall: no descriptor")
    kernel.failures |= {"silence": failure, "survey": failure}
    with pytest.raises(Unavailable):
        await network.detach(endpoint)
    kernel.calls.clear()
    await _until(lambda: kernel.calls.count("survey") >= 2)
    assert len(_published(kernel)) == 1
    kernel.failures.clear()
    await _until(lambda: not _published(kernel))
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching


async def test_watch_before_the_records_are_known_takes_nothing_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulkhead.manager.networks.bridge._SETTLE_SECONDS", 0)
    kernel = FakeKernel()
    endpoint = await (await _booted(kernel)).attach(ID, 1, ports=[WEB])
    successor = fake_network(kernel=kernel)
    kernel.calls.clear()
    watching = asyncio.create_task(successor.watch())
    kernel.disturbance.set()
    await _until(lambda: "table" in kernel.calls)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    assert endpoint.host_interface in kernel.interfaces
    assert len(_published(kernel)) == 1


async def test_only_what_somebody_else_has_done_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network is planned, and `watch` looks before who has planned it does."""
    monkeypatch.setattr("bulkhead.manager.networks.bridge._SETTLE_SECONDS", 0)
    kernel = FakeKernel()
    network = await _booted(kernel)
    with structlog.testing.capture_logs() as logs:
        watching = asyncio.create_task(network.watch())
        network.plan(_of_a_user("a"))
        kernel.disturbance.set()
        await _until(lambda: "br-a" in kernel.interfaces)
        await network.ensure()  # one at a time: `watch` has had its turn
        assert logs == []
        kernel.interfaces.pop("br-a")
        kernel.disturbance.set()
        await _until(lambda: logs != [])
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    assert [each["event"] for each in logs] == ["mended the network, which something had changed"]


def _of_a_user(name: str) -> BridgePlan:
    subnet = AddressPlan(subnet=ip_network("10.9.8.0/24"), gateway=ip_address("10.9.8.1"))
    return BridgePlan(key=name * 64, bridge=f"br-{name}", v4=subnet)


async def test_a_further_network_is_made_without_a_look_at_all_that_there_is() -> None:
    kernel = FakeKernel()
    network = await _booted(kernel)
    assert kernel.calls.count("legacy_forward_drop") == 1
    kernel.calls.clear()
    network.plan(_of_a_user("b"))
    await network.ensure("b" * 64)
    assert kernel.calls == ["look", "found_bridge"]
    kernel.calls.clear()
    assert not await network.reconcile([]), "nothing was left to do"
    kernel.calls.clear()
    await network.forget("b" * 64)
    assert kernel.calls == ["delete_links", "change_elements"]
    assert not await network.reconcile([])


async def test_a_further_network_is_made_although_someone_deleted_the_tables() -> None:
    kernel = FakeKernel()
    network = await _booted(kernel)
    kernel.tables.clear()
    network.plan(_of_a_user("b"))
    await network.ensure("b" * 64)
    assert "br-b" in kernel.interfaces
    assert not await network.reconcile([])
    kernel.tables.clear()
    await network.forget("b" * 64)
    assert not await network.reconcile([])


async def test_a_network_that_holds_another_one_s_subnet_leaves_it_masqueraded() -> None:
    kernel = FakeKernel()
    network = await _booted(kernel, Instance(subnet="10.9.8.0/25"))
    network.plan(_of_a_user("b"))
    with pytest.raises(Conflict):
        await network.ensure("b" * 64)
    assert list(kernel.tables[TABLE].elements["masqueraded"]) == ["10.9.8.0/24"]
    await network.forget("b" * 64)
    assert list(kernel.tables[TABLE].elements["masqueraded"]) == ["10.9.8.0/25"]


async def test_a_network_forgotten_while_its_bridge_is_made_leaves_none() -> None:
    kernel = FakeKernel()
    network = await _booted(kernel)
    network.plan(_of_a_user("b"))
    kernel.gates["make_bridge"] = asyncio.Event()
    ensuring = asyncio.create_task(network.ensure())
    await _until(lambda: kernel.calls[-1] == "make_bridge")
    await network.forget("b" * 64)
    kernel.gates["make_bridge"].set()
    await ensuring
    assert "br-b" not in kernel.interfaces


async def test_a_bridge_that_nobody_knows_does_not_keep_its_subnet() -> None:
    kernel = FakeKernel()
    network = await _booted(kernel)
    kernel.add_interface("br-old", IPv4Interface("10.9.8.1/24"), kind="bridge")
    kernel.interfaces["br-old"] = replace(kernel.interfaces["br-old"], alias=Instance().network_alias)
    network.plan(_of_a_user("b"))
    await network.ensure("b" * 64)
    assert "br-old" not in kernel.interfaces and "br-b" in kernel.interfaces
