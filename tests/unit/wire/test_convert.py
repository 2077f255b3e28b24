"""A spec that crosses the wire is the spec that was sent."""

from __future__ import annotations

from bulkhead.model.container import (
    Container,
    ContainerSpec,
    Healthcheck,
    LogConfig,
    Mount,
    NetworkEndpoint,
    PublishedPort,
    Resources,
    RestartPolicy,
    ThrottleDevice,
    Ulimit,
)
from bulkhead.model.lifecycle import Phase
from bulkhead.wire.convert import to_message, to_model
from bulkhead.wire.gen.bulkhead.types.v1 import Container as ContainerMessage
from bulkhead.wire.gen.bulkhead.types.v1 import ContainerSpec as SpecMessage

SPEC = ContainerSpec(
    image="busybox",
    entrypoint=(),
    command=("sh", "-c", "exit 7"),
    env=("A=1",),
    labels={"k": "v"},
    tty=True,
    stop_timeout=-1,
    healthcheck=Healthcheck(test=("CMD", "true"), interval=10),
    resources=Resources(memory=1 << 30, memory_swappiness=0, device_read_bps=(ThrottleDevice(path="/dev/x", rate=5),)),
    mounts=(Mount(type="bind", source="/a", target="/b", read_only=True),),
    ports=(PublishedPort(container_port=80, host_port=8080),),
    restart_policy=RestartPolicy(name="always"),
    log_config=LogConfig(driver="json-file", options={"max-size": "1m"}),
    ulimits=(Ulimit(name="nofile", soft=1, hard=2),),
    masked_paths=(),
    oom_score_adj=-5,
    engine_host_config=b"{}",
)


def test_spec_survives_the_round_trip_through_bytes() -> None:
    """Absent, empty and set values of every shape must stay apart: `entrypoint=()` is not `None`."""
    message = SpecMessage.parse(bytes(to_message(SpecMessage, SPEC)))
    assert to_model(ContainerSpec, message) == SPEC


def test_empty_spec_survives_the_round_trip() -> None:
    message = SpecMessage.parse(bytes(to_message(SpecMessage, ContainerSpec())))
    assert to_model(ContainerSpec, message) == ContainerSpec()


def test_record_keeps_phase_and_endpoints() -> None:
    for endpoints in ((), (NetworkEndpoint(address="10.0.0.2", prefix_len=16), NetworkEndpoint(aliases=("a",)))):
        record = Container(
            id="a" * 64, name="web", spec=SPEC, image_id="sha256:x", phase=Phase.PAUSED, endpoints=endpoints
        )
        message = ContainerMessage.parse(bytes(to_message(ContainerMessage, record)))
        assert to_model(Container, message) == record
