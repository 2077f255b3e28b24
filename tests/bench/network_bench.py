"""How long a container waits for its network: `python -m tests.bench.network_bench [rounds]`, as root.

On a private host, the namespaces made beforehand. Kernel's share by limits.md 1a: veth and bridge in one
message 280-290 us, the namespace's side 123 us. The veths die outside the measured time.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from statistics import median, quantiles

import uvloop

from bulkhead.linux import netlink
from bulkhead.manager.networks.bridge import BridgeNetwork
from bulkhead.model.network import PortBinding
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


def _report(name: str, samples: list[float]) -> None:
    print(f"{name:24} {median(samples):8.0f} {quantiles(samples, n=10)[8]:8.0f}")


async def _bench(rounds: int) -> None:
    with Host() as host:
        network = host.network()
        await network.ensure()
        await network.reconcile([])
        print(f"{'microseconds':24} {'median':>8} {'p90':>8}   n={rounds}")
        for name, ports in (("without ports", ()), ("one published port", WEB)):
            attached, detached = await _rounds(network, rounds, ports)
            _report(f"attach {name}", attached)
            _report(f"detach {name}", detached)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    uvloop.install()
    run_on_private_host(lambda: _bench(rounds))


if __name__ == "__main__":
    main()
