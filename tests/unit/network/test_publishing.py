"""Ports that were the host's choice are chosen again."""

from __future__ import annotations

from bulkhead.manager.publishing import as_before
from bulkhead.model.network import PortBinding


def test_what_may_be_any_port_is_what_it_was() -> None:
    asked = [PortBinding(container_port=80), PortBinding(container_port=80, host_port=8080)]
    held = [
        PortBinding(container_port=80, host_ip=ip, host_port=port) for port in (8080, 32770) for ip in ("0.0.0.0", "::")
    ]
    assert as_before(asked, held) == [
        PortBinding(container_port=80, host_port=32770),
        PortBinding(container_port=80, host_port=8080),
    ]


def test_what_was_given_twice_is_given_to_two() -> None:
    asked = [PortBinding(container_port=80), PortBinding(container_port=80), PortBinding(container_port=80)]
    held = [PortBinding(container_port=80, host_ip="0.0.0.0", host_port=port) for port in (32770, 32771)]
    assert [each.host_port for each in as_before(asked, held)] == [32770, 32771, 0]


def test_a_range_keeps_its_port_and_no_other() -> None:
    asked = [PortBinding(container_port=80, host_port=9000, host_port_end=9009)]
    held = [PortBinding(container_port=80, host_ip="0.0.0.0", host_port=port) for port in (8999, 9004)]
    assert as_before(asked, held) == [PortBinding(container_port=80, host_port=9004)]
    assert as_before(asked, held[:1]) == asked


def test_addresses_and_protocols_are_not_confused() -> None:
    asked = [
        PortBinding(container_port=80, host_ip="127.0.0.1"),
        PortBinding(container_port=80, protocol="udp"),
        PortBinding(container_port=81),
    ]
    held = [
        PortBinding(container_port=80, host_ip="0.0.0.0", host_port=32770),
        PortBinding(container_port=80, host_ip="127.0.0.1", host_port=32771),
        PortBinding(container_port=80, protocol="udp", host_ip="0.0.0.0", host_port=32772),
    ]
    assert [each.host_port for each in as_before(asked, held)] == [32771, 32772, 0]
