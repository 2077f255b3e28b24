"""The host's ports: who holds which, and what Docker's clients read when one is taken."""

from __future__ import annotations

import pytest

from bulkhead.errors import Internal, InvalidArgument, ResourceExhausted
from bulkhead.manager.networks.hostports import HostPorts
from bulkhead.model.network import Endpoint, PortBinding

BUSY = {("tcp", "0.0.0.0", 22): "address already in use"}
ELSEWHERE = {("tcp", "0.0.0.0", 40)}


def _ports(ephemeral: range = range(40000, 40003)) -> HostPorts:
    return HostPorts(lambda *asked: BUSY.get(asked), lambda *asked: asked in ELSEWHERE, lambda: ephemeral)


def _binding(port: int, *, ip: str = "", protocol: str = "tcp", end: int = 0) -> PortBinding:
    return PortBinding(container_port=80, host_ip=ip, protocol=protocol, host_port=port, host_port_end=end)


@pytest.mark.parametrize(
    ("first", "second", "fits"),
    [
        (_binding(80), _binding(80), False),
        (_binding(80), _binding(81), True),
        (_binding(80), _binding(80, protocol="udp"), True),
        (_binding(80), _binding(80, ip="127.0.0.1"), False),
        (_binding(80, ip="127.0.0.1"), _binding(80), False),
        (_binding(80, ip="127.0.0.1"), _binding(80, ip="127.0.0.2"), True),
        (_binding(80, ip="127.0.0.1"), _binding(80, ip="127.0.0.1"), False),
    ],
)
def test_which_ports_exclude_each_other(first: PortBinding, second: PortBinding, fits: bool) -> None:
    ports = _ports()
    ports.allocate("a", [first])
    if fits:
        assert ports.allocate("b", [second])[0].host_port == second.host_port
    else:
        with pytest.raises(Internal, match=rf"Bind for {second.host_ip or '0.0.0.0'}:80 failed: port is already"):
            ports.allocate("b", [second])


def test_a_request_that_fails_in_the_middle_keeps_nothing() -> None:
    ports = _ports()
    with pytest.raises(Internal, match=r"failed to bind host port for 0\.0\.0\.0:22/tcp: address already in use"):
        ports.allocate("a", [_binding(80), _binding(0), _binding(22)])
    assert len(ports) == 0


def test_the_same_port_twice_in_one_request_is_refused() -> None:
    ports = _ports()
    with pytest.raises(Internal, match="port is already allocated"):
        ports.allocate("a", [_binding(80), _binding(80)])
    assert len(ports) == 0


def test_ports_of_the_hosts_choice_go_round_and_run_out() -> None:
    ports = _ports()
    given = [ports.allocate("a", [_binding(0)])[0].host_port for _ in range(3)]
    assert given == [40000, 40001, 40002]
    with pytest.raises(ResourceExhausted, match="no free tcp port on the host in 40000-40002"):
        ports.allocate("a", [_binding(0)])
    ports.release("a", [_binding(40001, ip="0.0.0.0")])
    assert ports.allocate("b", [_binding(0)])[0].host_port == 40001


def test_ports_of_our_choice_leave_those_alone_that_the_same_request_names() -> None:
    given = _ports().allocate("a", [_binding(0), _binding(40000, end=40001), _binding(40000)])
    assert [binding.host_port for binding in given] == [40002, 40001, 40000]


def test_a_released_port_rests() -> None:
    ports = _ports()
    first = ports.allocate("a", [_binding(0)])
    ports.release("a", first)
    assert ports.allocate("a", [_binding(0)])[0].host_port == 40001


def test_a_range_skips_what_is_busy() -> None:
    assert _ports().allocate("a", [_binding(22, end=24)])[0] == _binding(23, ip="0.0.0.0")


def test_only_the_holder_releases() -> None:
    ports = _ports()
    held = ports.allocate("a", [_binding(80)])
    ports.release("b", held)
    assert len(ports) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"container_port": 0},
        {"container_port": 65536},
        {"container_port": 80, "host_port": -1},
        {"container_port": 80, "host_port": 65536},
        {"container_port": 80, "host_port": 81, "host_port_end": 80},
        {"container_port": 80, "host_port_end": 80},
        {"container_port": 80, "protocol": "icmp"},
        {"container_port": 80, "host_ip": "localhost"},
        {"container_port": 80, "host_ip": "1.2.3.4 . tcp . 80 }; flush ruleset"},
    ],
)
def test_what_can_be_no_binding_is_none(fields: dict[str, int | str]) -> None:
    with pytest.raises(InvalidArgument, match="invalid"):
        PortBinding(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"address": "10.0.0.2 }; flush ruleset"},
        {"address": "fd00::2"},
        {"gateway": ""},
        {"mac": ""},
        {"mac": "02:42:0A:00:00:02"},
        {"host_interface": ""},
        {"host_interface": "bh0 } ; flush ruleset"},
        {"host_interface": "sixteen-letters-"},
    ],
)
def test_an_endpoint_that_no_network_gave_is_refused(wrong: dict[str, str]) -> None:
    right = {"address": "10.0.0.2", "gateway": "10.0.0.1", "mac": "02:42:0a:00:00:02", "host_interface": "bh0"}
    Endpoint(container_id="c", prefix_len=24, **right)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="malformed"):
        Endpoint(container_id="c", prefix_len=24, **{**right, **wrong})  # type: ignore[arg-type]


def test_what_another_installation_publishes_is_taken() -> None:
    with pytest.raises(Internal, match=r"Bind for 0\.0\.0\.0:40 failed: port is already allocated"):
        _ports().allocate("a", [_binding(40)])
    assert _ports().allocate("a", [_binding(40, end=41)])[0].host_port == 41
