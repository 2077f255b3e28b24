"""From a create body to the spec the manager gets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from bulkhead.api.schema.create import CreateBody, spec_of
from bulkhead.api.schema.hostconfig import echo
from bulkhead.model.container import ContainerSpec, PublishedPort, RestartPolicy, ThrottleDevice


def spec(config: dict[str, Any] | None = None, **host: Any) -> ContainerSpec:
    made = msgspec.convert({"Image": "x", **(config or {}), "HostConfig": host}, CreateBody)
    return spec_of(made, exists=lambda path: True)


@pytest.mark.parametrize(
    ("given", "meant"), [(None, None), ([], ()), ("sh", ("sh",)), (["a", "b"], ("a", "b")), ([""], ("",))]
)
def test_absent_empty_and_given_entrypoints_differ(given: Any, meant: tuple[str, ...] | None) -> None:
    """`[]` drops the image's entrypoint, null inherits it: the merge needs the difference."""
    assert spec({"Entrypoint": given}).entrypoint == meant


def test_network_mode_defaults_to_the_bridge() -> None:
    assert spec().network_mode == spec(NetworkMode="default").network_mode == "bridge"
    assert spec(NetworkMode="none").network_mode == "none"


def test_memory_alone_doubles_as_swap_limit() -> None:
    assert spec(Memory=1 << 30).resources.memory_swap == 2 << 30
    assert spec(Memory=1 << 30, MemorySwap=-1).resources.memory_swap == -1


def test_minus_one_swappiness_is_not_said() -> None:
    assert spec(MemorySwappiness=-1).resources.memory_swappiness is None
    assert spec(MemorySwappiness=0).resources.memory_swappiness == 0


def test_ports_are_published_one_by_one() -> None:
    made = spec(
        {"ExposedPorts": {"80": {}, "90-91/udp": {}}},
        PortBindings={"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}, {"HostPort": ""}], "90/udp": None},
    )
    assert made.exposed_ports == ("80/tcp", "90/udp", "91/udp")
    assert made.ports == (
        PublishedPort(container_port=80, host_ip="127.0.0.1", host_port=8080),
        PublishedPort(container_port=80),
        PublishedPort(container_port=90, protocol="udp"),
    )


def test_policies_devices_and_security_travel() -> None:
    made = spec(
        RestartPolicy={"Name": "on-failure", "MaximumRetryCount": 3},
        BlkioDeviceReadBps=[{"Path": "/dev/x", "Rate": 10}],
        Devices=[{"PathOnHost": "/dev/fuse"}],
        CapAdd=["net_admin", "CAP_SYS_TIME", "all"],
        SecurityOpt=["no-new-privileges:true", "seccomp=unconfined"],
        MaskedPaths=[],
    )
    assert made.restart_policy == RestartPolicy(name="on-failure", maximum_retry_count=3)
    assert made.resources.device_read_bps == (ThrottleDevice(path="/dev/x", rate=10),)
    assert (made.devices[0].path_in_container, made.devices[0].permissions) == ("/dev/fuse", "rwm")
    assert made.cap_add == ("CAP_NET_ADMIN", "CAP_SYS_TIME", "ALL")
    assert (made.no_new_privileges, made.seccomp_profile) == (True, "unconfined")
    assert (made.masked_paths, made.readonly_paths) == ((), None)


def test_mac_address_comes_from_the_endpoint_or_the_container() -> None:
    by_endpoint = spec({"NetworkingConfig": {"EndpointsConfig": {"bridge": {"MacAddress": "02:00:00:00:00:01"}}}})
    assert by_endpoint.mac_address == "02:00:00:00:00:01"
    assert spec({"MacAddress": "02:00:00:00:00:02"}).mac_address == "02:00:00:00:00:02"


def test_host_config_is_echoed_over_dockers_defaults() -> None:
    shown = echo(spec(Memory=64 << 20, Binds=["/a:/b"], ShmSize=0, Runtime="", RestartPolicy={"Name": ""}))
    assert (shown["Memory"], shown["MemorySwap"], shown["Binds"]) == (64 << 20, 128 << 20, ["/a:/b"])
    assert (shown["ShmSize"], shown["Runtime"], shown["NetworkMode"]) == (64 << 20, "runc", "bridge")
    assert shown["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
    assert shown["LogConfig"] == {"Type": "json-file", "Config": {}}
    assert shown["PidsLimit"] is None and shown["Dns"] == [] and shown["PortBindings"] == {}
    assert "/proc/kcore" in shown["MaskedPaths"]
    assert "Tmpfs" not in shown and "Init" not in shown


def test_privileged_shows_no_masked_paths() -> None:
    shown = echo(spec(Privileged=True))
    assert (shown["MaskedPaths"], shown["ReadonlyPaths"]) == (None, None)


def test_echo_does_not_change_the_defaults_of_the_next() -> None:
    echo(spec())["LogConfig"]["Config"]["x"] = "y"
    assert echo(spec())["LogConfig"]["Config"] == {}


@pytest.mark.parametrize(("told", "wanted"), [(None, 0), (0, 0), (-1, -1), (-9, -1), (50, 50)])
def test_no_limit_of_processes_is_another_thing_than_none_named(told: int | None, wanted: int) -> None:
    """The CLI says 0 where its user says nothing."""
    made = spec(PidsLimit=told)
    assert made.resources.pids_limit == wanted
    assert echo(made)["PidsLimit"] == (told if wanted > 0 else None)


def test_the_daemons_limit_of_processes_is_shown() -> None:
    made = spec(PidsLimit=0)
    assert echo(replace(made, resources=replace(made.resources, pids_limit=77)))["PidsLimit"] == 77
