"""What a container takes from its image, rule by rule; what an image's config may not say."""

from __future__ import annotations

from typing import Any

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.model.container import ContainerSpec, Healthcheck
from bulkhead.model.digest import Digest
from bulkhead.model.image import ImageConfig, chain_ids, image_config, merge

IMAGE = ImageConfig(
    user="www",
    exposed_ports=("80/tcp",),
    env=("PATH=/bin", "A=image", "B=image"),
    entrypoint=("/entry",),
    cmd=("run",),
    volumes=("/data",),
    working_dir="/srv",
    labels={"a": "image", "b": "image"},
    stop_signal="SIGQUIT",
    healthcheck=Healthcheck(test=("CMD", "probe"), interval=5, retries=3),
    shell=("/bin/bash", "-c"),
)


@pytest.mark.parametrize(
    ("entrypoint", "command", "merged_entrypoint", "merged_command"),
    [
        (None, None, ("/entry",), ("run",)),
        (None, (), ("/entry",), ("run",)),
        (None, ("x",), ("/entry",), ("x",)),
        (("/e",), None, ("/e",), None),
        (("/e",), ("x",), ("/e",), ("x",)),
        ((), None, (), ("run",)),
        ((), ("x",), (), ("x",)),
        (("",), None, None, None),
        (("",), ("x",), None, ("x",)),
    ],
)
def test_command_follows_the_users_entrypoint(
    entrypoint: tuple[str, ...] | None,
    command: tuple[str, ...] | None,
    merged_entrypoint: tuple[str, ...] | None,
    merged_command: tuple[str, ...] | None,
) -> None:
    """engine-api 3.1: the image's command belongs to the image's entrypoint."""
    merged = merge(ContainerSpec(entrypoint=entrypoint, command=command), IMAGE)
    assert (merged.entrypoint, merged.command) == (merged_entrypoint, merged_command)


@pytest.mark.parametrize(
    ("user", "merged"),
    [
        ((), ("PATH=/bin", "A=image", "B=image")),
        (("A=mine",), ("A=mine", "PATH=/bin", "B=image")),
        (("A=",), ("A=", "PATH=/bin", "B=image")),
        (("A",), ("A", "PATH=/bin", "B=image")),
        (("C=x", "B=y=z"), ("C=x", "B=y=z", "PATH=/bin", "A=image")),
    ],
)
def test_users_variables_win_key_by_key(user: tuple[str, ...], merged: tuple[str, ...]) -> None:
    assert merge(ContainerSpec(env=user), IMAGE).env == merged


def test_labels_ports_and_volumes_are_joined() -> None:
    spec = ContainerSpec(labels={"a": "mine", "c": "mine"}, exposed_ports=("80/tcp", "53/udp"), volumes=("/v",))
    merged = merge(spec, IMAGE)
    assert merged.labels == {"a": "mine", "b": "image", "c": "mine"}
    assert merged.exposed_ports == ("80/tcp", "53/udp")
    assert merged.volumes == ("/v", "/data")


@pytest.mark.parametrize(
    ("field", "mine"),
    [("user", "0"), ("working_dir", "/"), ("stop_signal", "TERM"), ("shell", ("/bin/sh",))],
)
def test_what_the_user_left_empty_comes_from_the_image(field: str, mine: object) -> None:
    assert getattr(merge(ContainerSpec(), IMAGE), field) == getattr(IMAGE, field)
    said: dict[str, Any] = {field: mine}
    assert getattr(merge(ContainerSpec(**said), IMAGE), field) == mine


def test_health_check_is_merged_field_by_field() -> None:
    assert merge(ContainerSpec(), IMAGE).healthcheck == IMAGE.healthcheck
    merged = merge(ContainerSpec(healthcheck=Healthcheck(interval=9, start_period=2)), IMAGE)
    assert merged.healthcheck == Healthcheck(test=("CMD", "probe"), interval=9, start_period=2, retries=3)
    assert merge(ContainerSpec(healthcheck=Healthcheck(test=("NONE",))), ImageConfig()).healthcheck == Healthcheck(
        test=("NONE",)
    )


def test_merge_leaves_an_empty_image_out() -> None:
    spec = ContainerSpec(env=("A=1",), command=("x",))
    assert merge(spec, ImageConfig()) == spec


def test_config_is_read_with_dockers_and_ocis_names() -> None:
    config = image_config(
        {
            "os": "linux",
            "architecture": "arm64",
            "variant": "v8",
            "created": "2026-01-01T00:00:00Z",
            "config": {
                "User": "u",
                "Env": ["A=1", "", "=x"],
                "Cmd": [],
                "Entrypoint": None,
                "ExposedPorts": {"80/tcp": {}},
                "Volumes": {"/v": {}},
                "Labels": {"k": "v"},
                "Healthcheck": {"Test": ["CMD", "x"], "Interval": 10, "Retries": 2},
                "Shell": ["/bin/sh", "-c"],
                "ArgsEscaped": True,
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{'1' * 64}"]},
            "history": [{"created_by": "x", "empty_layer": True}],
        }
    )
    assert config.platform == "linux/arm64/v8"
    assert config.env == ("A=1",), "entries that no process can be given are dropped"
    assert (config.cmd, config.entrypoint) == ((), None)
    assert config.healthcheck == Healthcheck(test=("CMD", "x"), interval=10, retries=2)
    assert config.diff_ids == (Digest("sha256", "1" * 64),)
    assert config.history[0].empty_layer


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"config": []}, "config"),
        ({"config": {"Env": "A=1"}}, "config.Env"),
        ({"config": {"Env": ["A=\0"]}}, "config.Env"),
        ({"config": {"Cmd": [1]}}, "config.Cmd"),
        ({"config": {"Labels": {"a": 1}}}, "config.Labels"),
        ({"config": {"Volumes": ["/v"]}}, "config.Volumes"),
        ({"config": {"User": {}}}, "config.User"),
        ({"config": {"User": "a\0b"}}, "config.User"),
        ({"config": {"Healthcheck": {"Interval": "1s"}}}, "config.Healthcheck.Interval"),
        ({"config": {"Healthcheck": {"Retries": True}}}, "config.Healthcheck.Retries"),
        ({"config": {"Healthcheck": {"Interval": 2**63}}}, "config.Healthcheck.Interval"),
        ({"config": {"Env": ["A=1"] * 10_001}}, "config.Env"),
        ({"rootfs": {"type": "layers", "diff_ids": "x"}}, "rootfs.diff_ids"),
        ({"rootfs": {"type": "other"}}, "rootfs.type"),
        ({"history": {}}, "history"),
        ({"history": ["x"]}, "history"),
        ({"os": 1}, "os"),
        ({"config": {"Labels": {"a": "\ud800"}}}, "config.Labels"),
        ({"history": [{"created_by": "x\udfff"}]}, "history.created_by"),
    ],
)
def test_config_of_wrong_types_is_refused_by_name(document: dict[str, object], field: str) -> None:
    """Everything in a config comes from a stranger."""
    with pytest.raises(InvalidArgument, match=f"image config: {field} must be"):
        image_config(document)


def test_chain_ids_follow_the_specification() -> None:
    """The example of the OCI image specification, config.md, computed by hand."""
    one, two, three = (Digest("sha256", letter * 64) for letter in "abc")
    second = Digest.of(f"sha256:{'a' * 64} sha256:{'b' * 64}".encode())
    assert chain_ids((one, two, three)) == (one, second, Digest.of(f"{second} {three}".encode()))
    assert chain_ids(()) == ()
