"""How containers look in inspect and in lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bulkhead.api.ports.containers import InspectedContainer, ListedContainer
from bulkhead.api.schema import containers as schema
from bulkhead.api.schema.deltas import fitted
from bulkhead.api.schema.times import SECOND, ZERO
from bulkhead.api.versions import NEWEST, Version
from bulkhead.model.container import ContainerSpec, LogConfig, Mount, NetworkEndpoint, PublishedPort
from bulkhead.model.lifecycle import Phase

DATA = Path("/var/lib/bulkhead")
NOW = 1_700_000_000 * SECOND
ENDPOINT = NetworkEndpoint(
    network_id="n1",
    network_name="bridge",
    endpoint_id="e1",
    address="172.30.0.2",
    prefix_len=16,
    gateway="172.30.0.1",
    mac="02:42:ac:1e:00:02",
    ports=(PublishedPort(container_port=80, host_ip="", host_port=8080),),
)


def container(**fields: Any) -> InspectedContainer:
    spec = fields.pop("spec", ContainerSpec(image="busybox", network_mode="bridge"))
    return InspectedContainer(id="a" * 64, name="web", spec=spec, **fields)


def listed(**fields: Any) -> ListedContainer:
    return ListedContainer(id="a" * 64, name="web", **fields)


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (listed(phase=Phase.CREATED), "Created"),
        (listed(phase=Phase.RUNNING, started_at=NOW - 5 * SECOND), "Up 5 seconds"),
        (listed(phase=Phase.PAUSED, started_at=NOW - 5 * SECOND), "Up 5 seconds (Paused)"),
        (listed(phase=Phase.RUNNING, started_at=NOW, health_status="healthy"), "Up Less than a second (healthy)"),
        (
            listed(phase=Phase.RUNNING, started_at=NOW, health_status="starting"),
            "Up Less than a second (health: starting)",
        ),
        (listed(phase=Phase.RUNNING, started_at=NOW, health_status="none"), "Up Less than a second"),
        (
            listed(phase=Phase.RESTARTING, exit_code=1, finished_at=NOW - 3 * SECOND),
            "Restarting (1) 3 seconds ago",
        ),
        (listed(phase=Phase.EXITED, exit_code=137, finished_at=NOW - 7200 * SECOND), "Exited (137) 2 hours ago"),
        (listed(phase=Phase.REMOVING, finished_at=NOW), "Removal In Progress"),
        (listed(phase=Phase.DEAD, finished_at=NOW), "Dead"),
    ],
)
def test_status_has_the_words_of_docker_ps(item: ListedContainer, text: str) -> None:
    assert schema.status(item, NOW) == text


@pytest.mark.parametrize("phase", list(Phase))
def test_running_includes_paused_and_restarting(phase: Phase) -> None:
    shown = schema.state(container(phase=phase, pid=7))
    assert shown["Status"] == phase.value
    assert shown["Running"] is (phase in (Phase.RUNNING, Phase.PAUSED, Phase.RESTARTING))
    assert shown["Pid"] == (7 if phase in (Phase.RUNNING, Phase.PAUSED) else 0)


def test_never_started_shows_gos_zero_times_and_the_failure() -> None:
    shown = schema.state(container(exit_code=127, error="no such file"))
    assert (shown["StartedAt"], shown["FinishedAt"]) == (ZERO, ZERO)
    assert (shown["ExitCode"], shown["Error"]) == (127, "no such file")


def test_ports_are_shown_while_it_runs() -> None:
    spec = ContainerSpec(exposed_ports=("80/tcp", "90/udp"), network_mode="bridge")
    shown = schema.inspected(container(spec=spec, phase=Phase.RUNNING, endpoints=(ENDPOINT,)), data=DATA)
    settings = shown["NetworkSettings"]
    assert settings["Ports"] == {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "90/udp": None}
    assert settings["IPAddress"] == settings["Networks"]["bridge"]["IPAddress"] == "172.30.0.2"


def test_a_stopped_container_keeps_its_network_but_no_address() -> None:
    shown = schema.inspected(container(phase=Phase.EXITED, endpoints=(ENDPOINT.unplugged(),)), data=DATA)[
        "NetworkSettings"
    ]
    assert shown["Ports"] == {}
    assert shown["Networks"]["bridge"]["IPAddress"] == ""


def test_a_shared_network_shows_none() -> None:
    spec = ContainerSpec(network_mode="container:x")
    assert schema.inspected(container(spec=spec), data=DATA)["NetworkSettings"]["Networks"] == {}


def test_mounts_name_volumes_and_hide_the_tmpfs_of_the_host_config() -> None:
    spec = ContainerSpec(
        mounts=(
            Mount(type="bind", source="/a", target="/b", read_only=True),
            Mount(type="volume", source="v", target="/v"),
            Mount(type="tmpfs", target="/t"),
            Mount(type="tmpfs", target="/hidden"),
        ),
        engine_host_config=b'{"Tmpfs":{"/hidden":""}}',
    )
    bind, volume, tmpfs = schema.inspected(container(spec=spec), data=DATA)["Mounts"]
    assert (bind["RW"], bind["Propagation"]) == (False, "rprivate")
    assert (volume["Name"], volume["Source"]) == ("v", "/var/lib/bulkhead/volumes/v/_data")
    assert tmpfs["Destination"] == "/t"


def test_log_path_is_empty_where_there_is_no_file() -> None:
    made = container(spec=ContainerSpec(log_config=LogConfig(driver="none")), log_path="/x")
    assert schema.inspected(made, data=DATA)["LogPath"] == ""


def test_null_and_empty_are_told_apart_as_docker_does() -> None:
    shown = schema.inspected(container(), data=DATA)
    assert shown["ExecIDs"] is None and shown["Config"]["Volumes"] is None and shown["Config"]["Cmd"] is None
    assert shown["Config"]["Labels"] == {} and shown["Args"] == []
    assert "Healthcheck" not in shown["Config"] and "Health" not in shown["State"]


def test_older_versions_lack_what_they_never_had() -> None:
    made = container(endpoints=(ENDPOINT,))
    newest = fitted("container", schema.inspected(made, data=DATA), NEWEST)
    oldest = fitted("container", schema.inspected(made, data=DATA), Version(1, 24))
    assert "GwPriority" in newest["NetworkSettings"]["Networks"]["bridge"]
    assert "DNSNames" not in oldest["NetworkSettings"]["Networks"]["bridge"]
    assert oldest["Config"]["MacAddress"] == "" and oldest["HostConfig"]["KernelMemory"] == 0


def test_sizes_are_shown_when_they_were_asked_for() -> None:
    assert "SizeRw" not in schema.listed(listed(), data=DATA, now=NOW)
    shown = schema.listed(listed(size_rw=1, size_root=2), data=DATA, now=NOW)
    assert (shown["SizeRw"], shown["SizeRootFs"]) == (1, 2)
