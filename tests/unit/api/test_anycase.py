"""Go's decoder takes keys of any case, and clients live by it."""

from __future__ import annotations

import msgspec
import pytest

from bulkhead.api import anycase
from bulkhead.api.call import parse_json
from bulkhead.api.schema.create import CreateBody
from bulkhead.api.schema.hostconfig import PortBinding
from bulkhead.errors import InvalidArgument


class Named(msgspec.Struct):
    Name: str | None = None


class Body(msgspec.Struct):
    Inner: Named | None = None
    Many: list[Named] | None = None
    Table: dict[str, Named] | None = None
    Cmd: str | list[str] | None = None


def test_keys_of_structs_at_any_depth_and_no_others() -> None:
    told = b'{"inner":{"name":"a"},"MANY":[{"name":"b"}],"table":{"name":{"nAme":"c"}},"cmd":["x"],"nosuch":1}'
    assert parse_json(told, Body) == Body(
        Inner=Named(Name="a"), Many=[Named(Name="b")], Table={"name": Named(Name="c")}, Cmd=["x"]
    )


def test_the_exact_key_wins() -> None:
    assert parse_json(b'{"Name":"right","name":"wrong"}', Named) == Named(Name="right")
    assert parse_json(b'{"name":"wrong","Name":"right"}', Named) == Named(Name="right")


def test_a_container_in_small_letters() -> None:
    body = parse_json(b'{"image":"busybox","hostconfig":{"binds":["/a:/b"]},"labels":{"image":"x"}}', CreateBody)
    assert body.Image == "busybox" and body.HostConfig is not None and body.HostConfig.Binds == ["/a:/b"]
    assert body.Labels == {"image": "x"}


@pytest.mark.parametrize("labels", ["Labels", "labels"])
def test_null_in_a_map_or_a_list_is_an_empty_thing(labels: str) -> None:
    """JavaScript's clients send it."""
    host = '{"Tmpfs":{"/t":null},"PortBindings":{"80/tcp":[null],"81/tcp":null},"Binds":null}'
    told = f'{{"Image":"x","{labels}":{{"a":null}},"Cmd":["a",null],"HostConfig":{host}}}'
    body = parse_json(told.encode(), CreateBody)
    assert (body.Labels, body.Cmd) == ({"a": ""}, ["a", ""])
    assert body.HostConfig is not None and body.HostConfig.Tmpfs == {"/t": ""} and body.HostConfig.Binds is None
    assert body.HostConfig.PortBindings == {"80/tcp": [PortBinding()], "81/tcp": None}


@pytest.mark.parametrize("text", [b'{"name":1}', b'{"name":"x"', b'{"name":"x"}}', b"[" * 100000 + b'{"a":1}'])
def test_what_is_wrong_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidArgument):
        parse_json(text, Named)


def test_most_bodies_are_decoded_once() -> None:
    assert not anycase.perhaps(b'{"Image":"x","Labels":{"com.docker.compose.project":"a"}}')
