"""What the manager may rely on, of the default network on the real kernel and on the fake one."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from bulkhead.errors import Conflict, Internal, InvalidArgument, LaunchFailed, NotFound
from bulkhead.linux.netns import own_netns
from bulkhead.manager.networks.bridge import BridgeNetwork
from bulkhead.manager.networks.ports import AddressWish
from bulkhead.model.instance import Instance
from bulkhead.model.network import AddressPlan, BridgePlan, Endpoint, Netns, PortBinding, ProcessNetns
from tests.integration.network.private_host import Host, inside, run_on_private_host, setting
from tests.support.fake_network import HOST_NETNS, FakeKernel, fake_network

INSTANCE = Instance(subnet="10.90.0.0/24", bridge="bhtest0")
OTHER = Instance(run=Path("/run/bulkhead-other"), subnet="10.91.0.0/24", bridge="bhtest1")
ID, ID2, ID3 = "a" * 64, "b" * 64, "c" * 64
WEB = PortBinding(container_port=80, host_port=18080)
ASIDE = BridgePlan(
    key="aside",
    bridge="bhaside0",
    v4=AddressPlan(subnet=IPv4Network("10.93.0.0/24"), gateway=IPv4Address("10.93.0.1")),
)


class Real:
    """The real kernel on a private host."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def network(self, instance: Instance = INSTANCE) -> BridgeNetwork:
        return self._host.network(instance)

    def netns(self) -> Netns:
        return self._host.netns()

    @contextmanager
    def hosts_own_netns(self) -> Iterator[Netns]:
        own = own_netns()
        try:
            yield own
        finally:
            os.close(own)

    def dead_process(self) -> Netns:
        with subprocess.Popen(["true"]) as child:
            child.wait()
        return ProcessNetns(pid=child.pid, start_time=1)

    def setting(self, netns: Netns, path: str) -> str:
        assert isinstance(netns, int)
        return inside(netns, lambda: setting(path))

    def interfaces(self) -> set[str]:
        return set(self._host.links())

    def published(self, instance: Instance = INSTANCE) -> int:
        table = self._host.table(instance)
        return -1 if table is None else _count(table.elements)


class Fake:
    """The fake kernel."""

    def __init__(self) -> None:
        self._kernel = FakeKernel()
        self._given = 10

    def network(self, instance: Instance = INSTANCE) -> BridgeNetwork:
        return fake_network(instance, self._kernel)

    def netns(self) -> Netns:
        self._given += 1
        return self._given

    @contextmanager
    def hosts_own_netns(self) -> Iterator[Netns]:
        yield HOST_NETNS

    def dead_process(self) -> Netns:
        self._kernel.gone.add(4711)
        return ProcessNetns(pid=4711)

    def setting(self, netns: Netns, path: str) -> str:
        return self._kernel.tuned[netns, path]

    def interfaces(self) -> set[str]:
        return set(self._kernel.interfaces)

    def published(self, instance: Instance = INSTANCE) -> int:
        table = self._kernel.tables.get(f"inet {instance.nft_table}")
        return -1 if table is None else _count(table.elements)


def _count(held: Mapping[str, Mapping[Any, str]]) -> int:
    """The ports that a table publishes, or exposes."""
    return sum(len(elements) for name, elements in held.items() if name.startswith(("published", "exposed")))


Site = Real | Fake
Exam = Callable[[Site], Awaitable[None]]


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def examine(request: pytest.FixtureRequest) -> Callable[[Exam], None]:
    """Runs an exam on one of the two."""

    def on_fake(exam: Exam) -> None:
        asyncio.run(_awaited(exam(Fake())))

    def on_real(exam: Exam) -> None:
        async def body() -> None:
            with Host() as host:
                await exam(Real(host))

        run_on_private_host(body)

    return on_fake if request.param == "fake" else on_real


async def _awaited(exam: Awaitable[None]) -> None:
    await exam


@asynccontextmanager
async def _serving(site: Site, instance: Instance = INSTANCE) -> AsyncIterator[BridgeNetwork]:
    """A network as the manager has it after boot."""
    network = site.network(instance)
    await network.ensure()
    await network.reconcile([])
    yield network


def test_an_endpoint_says_where_the_container_is(examine: Callable[[Exam], None]) -> None:
    async def exam(site: Site) -> None:
        async with _serving(site) as network:
            endpoint = await network.attach(ID, site.netns())
        assert (endpoint.container_id, endpoint.network) == (ID, "bridge")
        assert (endpoint.address, endpoint.prefix_len, endpoint.gateway) == ("10.90.0.2", 24, "10.90.0.1")
        assert endpoint.mac == "02:42:0a:5a:00:02"
        assert endpoint.host_interface in site.interfaces()
        assert endpoint.ports == ()

    examine(exam)


def test_what_is_reserved_is_plugged_into_a_new_namespace(examine: Callable[[Exam], None]) -> None:
    async def exam(site: Site) -> None:
        async with _serving(site) as network:
            before = site.interfaces()
            endpoint = network.reserve(ID, ports=[WEB])
            assert site.interfaces() == before and site.published() == 0
            netns = await network.plug_reserved(endpoint)
            assert site.interfaces() - before == {endpoint.host_interface} and site.published() == 1
            again = await network.reconcile([endpoint])
            await network.detach(endpoint)
            assert site.published() == 0
            os.close(netns)
        assert (endpoint.address, endpoint.interface) == ("10.90.0.2", "eth0")
        assert not again

    examine(exam)


def test_what_is_reserved_can_be_given_back(examine: Callable[[Exam], None]) -> None:
    async def exam(site: Site) -> None:
        async with _serving(site) as network:
            await network.detach(network.reserve(ID, ports=[WEB]))
            with pytest.raises(InvalidArgument):
                network.reserve(ID, mac="x", ports=[WEB])
            assert network.reserve(ID, ports=[WEB]).ports[0].host_port == WEB.host_port

    examine(exam)


def test_addresses_rest_before_they_are_used_again(examine: Callable[[Exam], None]) -> None:
    async def exam(site: Site) -> None:
        async with _serving(site) as network:
            first = await network.attach(ID, site.netns())
            await network.detach(first)
            second = await network.attach(ID2, site.netns())
        assert (first.address, second.address) == ("10.90.0.2", "10.90.0.3")

    examine(exam)


def test_a_container_keeps_its_address_unless_another_has_it(examine: Callable[[Exam], None]) -> None:
    async def exam(site: Site) -> None:
        async with _serving(site) as network:
            old = await network.attach(ID, site.netns())
            await network.detach(old)
            again = await network.attach(ID, site.netns(), wishes=[AddressWish(address=old.address)])
            other = await network.attach(ID2, site.netns(), wishes=[AddressWish(address=old.address)])
            outside = await network.attach(ID3, site.netns(), wishes=[AddressWish(address="203.0.113.9")])
        assert again.address == old.address
        assert other.address not in (old.address, outside.address)
        assert outside.address.startswith("10.90.0.")

    examine(exam)


def test_the_mac_asked_for_is_given(examine: Callable[[Exam], None]) -> None:
    async def exam(site: Site) -> None:
        async with _serving(site) as network:
            endpoint = await network.attach(ID, site.netns(), mac="92:D0:C6:0A:29:33")
            assert endpoint.mac == "92:d0:c6:0a:29:33"
            for wrong in ("x", "01:00:5e:00:00:01", "92:d0:c6:0a:29", "00:00:00:00:00:00"):
                with pytest.raises(InvalidArgument, match="invalid MAC address"):
                    await network.attach(ID, site.netns(), mac=wrong)

    examine(exam)


def test_a_port_of_the_hosts_choice_is_told(examine: Callable[[Exam], None]) -> None:
    async def exam(site: Site) -> None:
        asked = [PortBinding(container_port=80), PortBinding(container_port=80), WEB]
        async with _serving(site) as network:
            endpoint = await network.attach(ID, site.netns(), ports=asked)
        of_ipv4 = [port for port in endpoint.ports if not port.is_ipv6]
        chosen = [port.host_port for port in of_ipv4]
        assert chosen[0] != chosen[1]
        assert all(port >= 1024 for port in chosen)
        assert of_ipv4[2] == PortBinding(container_port=80, host_port=18080, host_ip="0.0.0.0")
        assert site.published() == 3

    examine(exam)


def test_a_port_range_gives_the_first_free_one(examine: Callable[[Exam], None]) -> None:
    async def exam(site: Site) -> None:
        asked = PortBinding(container_port=80, host_port=18080, host_port_end=18082)
        async with _serving(site) as network:
            given = [(await network.attach(ID, site.netns(), ports=[asked])).ports[0] for _ in range(3)]
            with pytest.raises(Internal, match=r"Bind for 0\.0\.0\.0:18082 failed: port is already allocated"):
                await network.attach(ID2, site.netns(), ports=[asked])
        assert [(port.host_port, port.host_port_end) for port in given] == [(18080, 0), (18081, 0), (18082, 0)]

    examine(exam)


def test_a_port_that_is_taken_is_refused_in_dockers_words_and_nothing_stays(
    examine: Callable[[Exam], None],
) -> None:
    async def exam(site: Site) -> None:
        async with _serving(site) as network:
            await network.attach(ID, site.netns(), ports=[WEB])
            before = site.interfaces(), site.published()
            with pytest.raises(Internal) as refused:
                ports = [PortBinding(container_port=1, host_port=18081), WEB]
                await network.attach(ID2, site.netns(), ports=ports, name="web2")
            assert str(refused.value) == (
                f"driver failed programming external connectivity on endpoint web2 ({ID2}): "
                "Bind for 0.0.0.0:18080 failed: port is already allocated"
            )
            assert (site.interfaces(), site.published()) == before
            # Address and the first, free port went back.
            endpoint = await network.attach(ID3, site.netns(), ports=[PortBinding(container_port=1, host_port=18081)])
            assert endpoint.ports[0].host_port == 18081

    examine(exam)


@pytest.mark.parametrize(
    ("theirs", "ours", "fits"),
    [
        ("0.0.0.0", "0.0.0.0", False),
        ("0.0.0.0", "127.0.0.1", False),
        ("127.0.0.1", "127.0.0.1", False),
        ("127.0.0.1", "127.0.0.2", True),
    ],
)
def test_what_another_installation_publishes_is_allocated(
    examine: Callable[[Exam], None], theirs: str, ours: str, fits: bool
) -> None:
    """By the kernel's word: theirs may have no process that runs."""

    async def exam(site: Site) -> None:
        async with _serving(site) as network, _serving(site, OTHER) as other:
            await other.attach(ID, site.netns(), ports=[replace(WEB, host_ip=theirs)])
            asked = [replace(WEB, host_ip=ours)]
            if fits:
                await network.attach(ID2, site.netns(), ports=asked)
            else:
                with pytest.raises(Internal, match=rf"Bind for {ours}:18080 failed: port is already allocated"):
                    await network.attach(ID2, site.netns(), ports=asked)

    examine(exam)


def test_a_wildcard_port_clashes_with_one_address_of_another_installation(examine: Callable[[Exam], None]) -> None:
    async def exam(site: Site) -> None:
        async with _serving(site) as network, _serving(site, OTHER) as other:
            await other.attach(ID, site.netns(), ports=[replace(WEB, host_ip="127.0.0.1")])
            with pytest.raises(Internal, match=r"Bind for 0\.0\.0\.0:18080 failed: port is already allocated"):
                await network.attach(ID2, site.netns(), ports=[WEB])
            other_port = replace(WEB, host_port=18081)
            assert (await network.attach(ID2, site.netns(), ports=[other_port])).ports[0].host_port == 18081

    examine(exam)


def test_a_published_port_is_free_again_after_detach(examine: Callable[[Exam], None]) -> None:
    async def exam(site: Site) -> None:
        async with _serving(site) as network:
            endpoint = await network.attach(ID, site.netns(), ports=[WEB])
            await network.detach(endpoint)
            await network.detach(endpoint)
            assert site.published() == 0
            successor = await network.attach(ID2, site.netns(), ports=[WEB])
            # Late news of the first: it must not take the port from the second.
            await network.detach(endpoint)
            assert site.published() == 1
            assert (await network.reconcile([successor])).table_changes == 0

    examine(exam)


@asynccontextmanager
async def _on_two(site: Site) -> AsyncIterator[tuple[BridgeNetwork, Endpoint, Endpoint]]:
    """Somebody on `aside`, whose ports are answered there, and on the default network."""
    async with _serving(site) as network:
        network.plan(ASIDE)
        await network.ensure("aside")
        netns = site.netns()
        asked = [WEB, PortBinding(container_port=53, protocol="udp")]
        first = await network.attach(ID, netns, network="aside", ports=asked)
        yield network, first, await network.attach(ID, netns, interface="eth1", routed=())


def test_ports_go_to_another_network_of_their_container(examine: Callable[[Exam], None]) -> None:
    async def exam(site: Site) -> None:
        async with _on_two(site) as (network, first, second):
            now = network.promise(second, ports=first.ports, held=first.ports)
            assert now == replace(second, ports=first.ports)
            assert not await network.reconcile([first, second]), "so far they are where they were"
            now = network.promise(second, ports=first.ports, held=first.ports)
            await network.publish([now, replace(first, ports=())])
            assert site.published() == 2
            await network.detach(first)
            with pytest.raises(Internal, match="port is already allocated"):
                await network.attach(ID2, site.netns(), ports=[WEB])
            assert (await network.reconcile([now])).table_changes == 0
            await network.detach(now)
            assert site.published() == 0
            await network.attach(ID2, site.netns(), ports=[WEB])

    examine(exam)


def test_a_promise_that_is_not_kept_leaves_nothing(examine: Callable[[Exam], None]) -> None:
    async def exam(site: Site) -> None:
        async with _on_two(site) as (network, first, second):
            extra = replace(WEB, host_port=18081)
            network.promise(second, ports=[WEB, extra], held=first.ports)
            with pytest.raises(Internal, match=r"18081 failed: port is already allocated"):
                await network.attach(ID2, site.netns(), ports=[extra])
            await network.publish([first, second])
            assert (await network.reconcile([first, second])).table_changes == 0
            other = await network.attach(ID2, site.netns(), ports=[extra])
            with pytest.raises(Internal, match=r"18081 failed: port is already allocated"):
                network.promise(second, ports=[WEB, extra], held=first.ports)
            with pytest.raises(Internal, match=r"18080 failed: port is already allocated"):
                await network.attach(ID3, site.netns(), ports=[WEB])
            assert (await network.reconcile([first, second, other])).table_changes == 0

    examine(exam)


@pytest.mark.parametrize("address", ["::1", "::"])
def test_ports_on_ipv6_addresses_are_relayed_to_a_network_without(
    examine: Callable[[Exam], None], address: str
) -> None:
    wanted = PortBinding(container_port=80, host_ip=address, host_port=8086)

    async def exam(site: Site) -> None:
        async with _serving(site) as network:
            endpoint = await network.attach(ID, site.netns(), ports=[wanted])
            assert endpoint.ports == (wanted,)
            (relay,) = endpoint.relays
            assert (relay.host_ip, relay.host_port) == (address, 8086)
            assert (relay.address, relay.container_port) == (endpoint.address, 80)
            assert site.published() == 0, "no rule of the firewall's does it"
            with pytest.raises(Internal, match=r"Bind for \[::1?\]:8086 failed: port is already allocated"):
                await network.attach(ID2, site.netns(), ports=[wanted])
            with pytest.raises(InvalidArgument, match="only tcp and udp are carried over by hand"):
                await network.attach(ID2, site.netns(), ports=[replace(wanted, protocol="sctp")])
            assert not await network.reconcile([endpoint])
            await network.detach(endpoint)
            await network.attach(ID2, site.netns(), ports=[wanted])

    examine(exam)


def test_what_cannot_be_attached_is_refused_and_nothing_stays(examine: Callable[[Exam], None]) -> None:
    async def exam(site: Site) -> None:
        async with _serving(site) as network:
            taken = site.netns()
            first = await network.attach(ID, taken)
            before = site.interfaces()
            with pytest.raises(Conflict):
                await network.attach(ID2, taken)
            with pytest.raises(NotFound):
                await network.attach(ID2, site.dead_process(), ports=[WEB])
            with site.hosts_own_netns() as own, pytest.raises(InvalidArgument, match="the host's own"):
                await network.attach(ID2, own)
            assert site.interfaces() == before
            assert site.published() == 0
            assert not await network.reconcile([first])

    examine(exam)


def test_reconcile_keeps_what_lives_and_removes_the_rest(examine: Callable[[Exam], None]) -> None:
    """The manager was killed: its successor knows the records and nothing else."""

    async def exam(site: Site) -> None:
        async with _serving(site) as network:
            lives = await network.attach(ID, site.netns(), ports=[WEB])
            unrecorded = await network.attach(ID2, site.netns(), ports=[PortBinding(container_port=81)])
        successor = site.network()
        await successor.ensure()
        assert site.published() == 2  # before reconcile nobody knows whose they are
        mended = await successor.reconcile([lives])
        assert mended.links_deleted == (unrecorded.host_interface,)
        assert lives.host_interface in site.interfaces()
        assert site.published() == 1
        assert not await successor.reconcile([lives])
        with pytest.raises(Internal, match="port is already allocated"):
            await successor.attach(ID3, site.netns(), ports=[WEB])
        assert (
            await successor.attach(ID3, site.netns(), wishes=[AddressWish(address=lives.address)])
        ).address != lives.address

    examine(exam)


def test_reconcile_names_containers_whose_veth_is_gone(examine: Callable[[Exam], None]) -> None:
    async def exam(site: Site) -> None:
        async with _serving(site) as network:
            gone = Endpoint(
                container_id=ID,
                address="10.90.0.9",
                prefix_len=24,
                gateway="10.90.0.1",
                mac="02:42:0a:5a:00:09",
                host_interface="bh0",
            )
            assert (await network.reconcile([gone])).lost == (ID,)
            again = await network.reconcile([gone])
            assert again.lost == (ID,)
            assert not again  # a loss is told, but nothing was changed

    examine(exam)


def test_two_instances_do_not_touch_each_other(examine: Callable[[Exam], None]) -> None:
    async def exam(site: Site) -> None:
        async with _serving(site, INSTANCE) as ours, _serving(site, OTHER) as theirs:
            here = await ours.attach(ID, site.netns(), ports=[WEB])
            there = await theirs.attach(ID, site.netns(), ports=[PortBinding(container_port=80, host_port=18081)])
            assert not await ours.reconcile([here])
            assert not await theirs.reconcile([there])
            await ours.teardown()
            assert site.published(INSTANCE) == -1
            assert site.published(OTHER) == 1
            assert not await theirs.reconcile([there])

    examine(exam)


def test_teardown_leaves_nothing_and_may_be_repeated(examine: Callable[[Exam], None]) -> None:
    async def exam(site: Site) -> None:
        before = site.interfaces()
        async with _serving(site) as network:
            await network.attach(ID, site.netns(), ports=[WEB])
            await network.teardown()
            await network.teardown()
            assert site.interfaces() == before
            assert site.published() == -1
            await network.ensure()
            assert (await network.attach(ID, site.netns(), ports=[WEB])).ports[0].host_port == 18080

    examine(exam)


def test_a_namespace_without_network_has_its_loopback(examine: Callable[[Exam], None]) -> None:
    async def exam(site: Site) -> None:
        network = site.network()
        await network.attach_loopback(site.netns())
        with pytest.raises(NotFound):
            await network.attach_loopback(site.dead_process())

    examine(exam)


def test_an_interface_is_set_up_once_it_is_there(examine: Callable[[Exam], None]) -> None:
    async def exam(site: Site) -> None:
        async with _serving(site) as network:
            netns, path = site.netns(), "net/ipv4/conf/eth0/log_martians"
            with pytest.raises(LaunchFailed, match=f"process: sysctl {path}: no such file or directory: unknown$"):
                await network.tune(netns, {path: "1"})
            await network.attach(ID, netns)
            await network.tune(netns, {path: "1"})
            assert site.setting(netns, path) == "1"
            with pytest.raises(NotFound):
                await network.tune(site.dead_process(), {path: "1"})
            with site.hosts_own_netns() as own, pytest.raises(InvalidArgument):
                await network.tune(own, {"net/ipv4/conf/all/log_martians": "1"})

    examine(exam)


def test_two_installations_do_not_choose_a_subnet_at_once(examine: Callable[[Exam], None]) -> None:
    async def exam(site: Site) -> None:
        ours, theirs = site.network(INSTANCE), site.network(OTHER)

        async def choose() -> None:
            async with theirs.choosing():
                pass

        async with ours.choosing():
            choosing = asyncio.create_task(choose())
            done, _ = await asyncio.wait([choosing], timeout=0.1)
            assert not done
        await asyncio.wait_for(choosing, 30)
        async with ours.choosing():
            pass

    examine(exam)
