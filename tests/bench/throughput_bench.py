"""Bytes per second between containers and to published ports, beside dockerd with the rules that it makes by default.

`unshare -n -m python -m tests.bench.throughput_bench [rounds]`, as root: both engines stand on a network namespace of
their own, whose firewall dockerd may have. iperf3 runs outside, in the containers' network namespaces.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bulkhead.linux import netlink
from bulkhead.linux.netlink import Netlink
from tests.bench import child, engines
from tests.bench.engines import IMAGE, Engine
from tests.bench.sitting import Bench, Samples, Sitting
from tests.bench.standalone import run

SECONDS = "1.5"
PORT = 5201
HOST = "198.51.100.1"


@dataclass(frozen=True, kw_only=True)
class Server:
    """A container with an iperf3 server, another beside it, and where the server is reached."""

    pid: int
    neighbour: int
    address: str
    host_port: int


@contextlib.contextmanager
def serving(engine: Engine) -> Iterator[Server]:
    client = engine.client()
    network = client.json("POST", "/networks/create", {"Name": "bench"})["Id"]
    made = [client.json("POST", "/containers/create", _container(published=each)) for each in (True, False)]
    for each in made:
        client.start(each["Id"])
    facts, other = (client.json("GET", f"/containers/{each['Id']}/json") for each in made)
    ports = facts["NetworkSettings"]["Ports"][f"{PORT}/tcp"]
    enter = ["nsenter", "-n", "-t", str(facts["State"]["Pid"])]
    command = [*enter, "iperf3", "-s", "-i", "0", "-p", str(PORT), "--forceflush"]
    iperf = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert iperf.stdout is not None
    next(line for line in iperf.stdout if "listening" in line)
    try:
        yield Server(
            pid=facts["State"]["Pid"],
            neighbour=other["State"]["Pid"],
            address=facts["NetworkSettings"]["Networks"]["bench"]["IPAddress"],
            host_port=next(int(each["HostPort"]) for each in ports if ":" not in each["HostIp"]),
        )
    finally:
        iperf.terminate()
        iperf.communicate()
        for each in made:
            client.remove(each["Id"])
        client.json("DELETE", f"/networks/{network}")


def _container(*, published: bool) -> dict[str, Any]:
    ports = {f"{PORT}/tcp": [{"HostPort": ""}]} if published else {}
    host = {"NetworkMode": "bench", "PortBindings": ports}
    exposed: dict[str, Any] = {port: {} for port in ports}
    return {"Image": IMAGE, "Cmd": ["sleep", "1000"], "ExposedPorts": exposed, "HostConfig": host}


def measured(samples: Samples, row: str, who: str, address: str, port: int, inside: int | None = None) -> None:
    """One run of iperf3: Gbit/s, and processor seconds of both its ends for each gigabyte."""
    enter = ["nsenter", "-n", "-t", str(inside)] if inside else []
    command = [*enter, "iperf3", "-J", "-t", SECONDS, "-c", address, "-p", str(port)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    end = json.loads(done.stdout).get("end", {})
    if not end.get("sum_received"):
        raise RuntimeError(f"iperf3 to {who} at {address}:{port}: {done.stdout[-300:]}")
    received, use = end["sum_received"], end["cpu_utilization_percent"]
    seconds = (use["host_total"] + use["remote_total"]) / 100 * received["seconds"]
    samples.setdefault(f"{row} [Gbit/s]", {}).setdefault(who, []).append(received["bits_per_second"] / 1e9)
    samples.setdefault(f"{row}, CPU of a GB [s]", {}).setdefault(who, []).append(seconds / received["bytes"] * 1e9)


def measure(rounds: int) -> Samples:
    """In turns, so that what else the machine does meets both."""
    samples: Samples = {}
    with contextlib.ExitStack() as stack:
        _own_host()
        # dockerd first: where it finds forwarding off it sets the policy DROP, and the other lives beside that.
        found = [stack.enter_context(engines.dockerd(iptables=True)), stack.enter_context(engines.bulkhead())]
        servers = {engine.name: stack.enter_context(serving(engine)) for engine in reversed(found)}
        for number in range(rounds):
            # Who comes first meets the end of what the other did: by turns.
            for who, server in sorted(servers.items(), reverse=bool(number % 2)):
                measured(samples, "container to container", who, server.address, PORT, server.neighbour)
                measured(samples, "host to published port", who, HOST, server.host_port)
                measured(samples, "localhost to published port", who, "127.0.0.1", server.host_port)
    return samples


def _own_host() -> None:
    """An address of this network namespace that is no loopback's."""
    with Netlink() as host:
        host.request(netlink.link_up(1))
    commands = (
        "ip link add uplink type veth peer name world",
        f"ip address add {HOST}/24 dev uplink",
        "ip link set uplink up",
        "ip link set world up",
        "sysctl -qw net.ipv4.ip_forward=0",
    )
    for command in commands:
        subprocess.run(command.split(), check=True)


def _apart(sitting: Sitting) -> None:
    missing = [name for name in ("iperf3", "dockerd", "nsenter") if shutil.which(name) is None]
    if missing or not sitting.peers:
        sys.stdout.write(f"throughput: not measured without {', '.join(missing) or 'peers'}\n")
        return
    command = ["unshare", "-n", "-m", sys.executable, "-m", "tests.bench.throughput_bench", str(sitting.size(8, 3))]
    sitting.merge(json.loads(child.output([*command, "--json"]).splitlines()[-1]))


BENCHES = (Bench(name="throughput", about="iperf3 between containers and to published ports", run=_apart),)

if __name__ == "__main__":
    run(measure, __doc__, 8)
