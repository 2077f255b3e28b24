"""How long a container waits for its network: `python -m tests.bench.network_bench [rounds]`, as root.

On a private host, the namespaces made beforehand. Kernel's share by limits.md 1a: veth and bridge in one
message 280-290 us, the namespace's side 123 us. The veths die outside the measured time.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence

import uvloop

from bulkhead.linux import netlink
from bulkhead.manager.networks.bridge import BridgeNetwork
from bulkhead.model.network import PortBinding
from tests.bench.sitting import Bench, Samples, apart
from tests.bench.standalone import run
from tests.integration.network.private_host import Host, run_on_private_host

WEB = (PortBinding(container_port=80),)
SETTLE_SECONDS = 0.02


async def _rounds(network: BridgeNetwork, rounds: int, ports: Sequence[PortBinding]) -> tuple[list[float], list[float]]:
    """Microseconds of each attachment and each detachment."""
    attached, detached = [], []
    for number in range(rounds):
        namespace = netlink.new_netns()
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


def measure(rounds: int) -> Samples:
    """On a private host."""
    samples: Samples = {}
    run_on_private_host(lambda: _bench(rounds, samples))
    return samples


BENCHES = (Bench(name="network", about="attach to and detach from a bridge", run=apart("network_bench", 200, 50)),)

if __name__ == "__main__":
    uvloop.install()
    run(measure, __doc__, 200)
