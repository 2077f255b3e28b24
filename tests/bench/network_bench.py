"""How long a container waits for its network: `python -m tests.bench.network_bench [rounds]`, as root.

On a private host, the namespaces made beforehand. Kernel's share by limits.md 1a: veth and bridge in one
message 280-290 us, the namespace's side 123 us. The veths die outside the measured time.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Sequence

import uvloop

from bulkhead.linux.netns import new_netns
from bulkhead.manager.networks.bridge import BridgeNetwork
from bulkhead.model.network import PortBinding
from tests.bench.sitting import Bench, Samples, apart
from tests.bench.standalone import run
from tests.integration.network.private_host import Host, run_on_private_host

WEB = (PortBinding(container_port=80),)
SETTLE_SECONDS = 0.02
MANY = 1000


async def _rounds(network: BridgeNetwork, rounds: int, ports: Sequence[PortBinding]) -> tuple[list[float], list[float]]:
    """Microseconds of each attachment and each detachment."""
    attached, detached = [], []
    for number in range(rounds):
        namespace = new_netns()
        begun = time.perf_counter()
        endpoint = await network.attach(f"{number:064x}", namespace, ports=ports)
        between = time.perf_counter()
        await network.detach(endpoint)
        attached.append((between - begun) * 1e6)
        detached.append((time.perf_counter() - between) * 1e6)
        os.close(namespace)
        await asyncio.sleep(SETTLE_SECONDS)
    return attached, detached


async def _bench(rounds: int, samples: Samples) -> None:
    with Host() as host:
        network = host.network()
        await network.ensure()
        await network.reconcile([])
        for name, ports in (("without ports", ()), ("one published port", WEB)):
            attached, detached = await _rounds(network, rounds, ports)
            samples[f"network attach, {name} [us]"] = {"bulkhead": attached}
            samples[f"network detach, {name} [us]"] = {"bulkhead": detached}


async def _many_ports(rounds: int, samples: Samples) -> None:
    """What one more port costs, to publish and to connect to, beside no other and beside a thousand."""
    with Host() as host:
        network = host.network()
        await network.ensure()
        await network.reconcile([])
        server, container = host.netns(), "f" * 64
        endpoint = await network.attach(container, server, ports=[PortBinding(container_port=80, host_port=8080)])
        host.listen(server, "0.0.0.0", 80).listen(1000)
        for words, more in (("alone", 0), (f"beside {MANY}", MANY)):
            for number in range(more // 100):
                ports = [PortBinding(container_port=port) for port in range(1, 101)]
                await network.attach(f"{number:064x}", host.netns(), ports=ports)
            attached, _ = await _rounds(network, rounds, WEB)
            samples[f"network attach, one port {words} [us]"] = {"bulkhead": attached}
            times = [_connected(endpoint.ports[0].host_port) for _ in range(rounds)]
            samples[f"connect to a published port {words} [us]"] = {"bulkhead": times}


def _connected(port: int) -> float:
    begun = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)):
        return (time.perf_counter() - begun) * 1e6


def measure(rounds: int) -> Samples:
    """On a private host."""
    samples: Samples = {}
    run_on_private_host(lambda: _bench(rounds, samples))
    run_on_private_host(lambda: _many_ports(rounds, samples))
    return samples


BENCHES = (Bench(name="network", about="attach to and detach from a bridge", run=apart("network_bench", 200, 50)),)

if __name__ == "__main__":
    uvloop.install()
    run(measure, __doc__, 200)
