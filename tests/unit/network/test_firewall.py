"""What the keeper of the tables asks of the kernel, and how often."""

from __future__ import annotations

from bulkhead.manager.networks.firewall import Firewall
from bulkhead.model.network import Endpoint, PortBinding
from tests.support.fake_network import FakeKernel

ID = "a" * 64


def _port(protocol: str, host_ip: str, host_port: int) -> PortBinding:
    return PortBinding(container_port=53, protocol=protocol, host_ip=host_ip, host_port=host_port)


def test_flows_are_looked_for_once_in_each_family_that_is_published() -> None:
    ports = (
        _port("udp", "0.0.0.0", 5300),
        _port("udp", "::", 5300),
        _port("udp", "127.0.0.1", 5300),
        _port("udp", "127.0.0.1", 5200),
        _port("tcp", "0.0.0.0", 5100),
        _port("udp", "0.0.0.0", 0),  # of a routed network
    )
    endpoint = Endpoint(
        container_id=ID,
        mac="02:42:0a:09:08:02",
        host_interface="bh0",
        address="10.9.8.2",
        gateway="10.9.8.1",
        address6="fd00::2",
        gateway6="fd00::1",
        ports=ports,
    )
    firewall = Firewall(FakeKernel(), "bulkhead", list, lambda: [endpoint], mark="ours ")
    for changing in (firewall.admission(endpoint), firewall.dismissal(endpoint)):
        with changing as change:
            assert change.udp_ports == [(4, 5200), (4, 5300), (6, 5300)]
