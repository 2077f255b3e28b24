"""Filters of containers and events as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.model.container import Container, ContainerSpec, Mount, NetworkEndpoint, PublishedPort
from bulkhead.model.events import Event
from bulkhead.model.filters import boolean, check_keys, matches_event, parse_container_filter
from bulkhead.model.lifecycle import Phase
from bulkhead.model.moments import parse_moment

_PORT = PublishedPort(container_port=443, host_port=8443)
CONTAINER = Container(
    id="ab" * 32,
    name="web_1",
    image_id="sha256:1",
    spec=ContainerSpec(
        image="nginx:1",
        labels={"app": "web", "empty": ""},
        mounts=(Mount(type="volume", source="vol", target="/data"),),
        exposed_ports=("80/tcp", "9000-9010/udp"),
    ),
    phase=Phase.EXITED,
    exit_code=3,
    started_at=1,
    created_at=100,
    endpoints=(NetworkEndpoint(network_name="bridge", network_id="net1", ports=(_PORT,)),),
)


def _matches(container: Container = CONTAINER, /, **filters: list[str]) -> bool:
    named = {key.replace("_", "-"): values for key, values in filters.items()}
    parsed = parse_container_filter(
        named, resolve_image={"nginx": "sha256:1"}.get, created_at=lambda ref: {"older": 50, "newer": 150}[ref]
    )
    return parsed.matches(container)


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("id", "abab", "cd"),
        ("name", "eb_", "db"),
        ("name", "^/web", "^/eb"),
        ("name", "^web_1$", "web_2"),
        ("label", "app", "nosuch"),
        ("label", "app=web", "app=db"),
        ("label", "empty=", "empty=x"),
        ("status", "exited", "running"),
        ("exited", "3", "0"),
        ("health", "none", "healthy"),
        ("volume", "vol", "vo"),
        ("volume", "/data", "/dat"),
        ("network", "bridge", "host"),
        ("network", "net1", "et1"),
        ("network", "ne", "net2"),
        ("ancestor", "nginx", "redis"),
        ("ancestor", "nginx:1", "nginx:2"),
        ("before", "newer", "older"),
        ("since", "older", "newer"),
        ("is_task", "false", "true"),
    ],
)
def test_each_key(key: str, good: str, bad: str) -> None:
    assert _matches(**{key: [good]})
    assert not _matches(**{key: [bad]})


def test_values_of_a_key_are_alternatives_but_labels_must_all_hold() -> None:
    assert _matches(status=["running", "exited"])
    assert not _matches(label=["app=web", "nosuch"])
    assert not _matches(status=["exited"], name=["nosuch"])


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("publish", "8443", "443"),
        ("publish", "8400-8500/tcp", "8443/udp"),
        ("expose", "80", "81"),
        ("expose", "9005/udp", "9005"),
        ("expose", "443", "8443"),
    ],
)
def test_ports_are_those_of_a_running_container(key: str, good: str, bad: str) -> None:
    running = replace(CONTAINER, phase=Phase.RUNNING)
    assert _matches(running, **{key: [good]})
    assert not _matches(running, **{key: [bad]})
    assert not _matches(CONTAINER, **{key: [good]})


@pytest.mark.parametrize(
    ("key", "value"),
    [("nosuch", "1"), ("status", "sleeping"), ("health", "ill"), ("exited", "x"), ("publish", "80/icmp")],
)
def test_bad_filters_are_refused(key: str, value: str) -> None:
    with pytest.raises(InvalidArgument):
        _matches(**{key: [value]})


def test_unbalanced_regular_expression_is_taken_literally() -> None:
    assert not _matches(name=["web("])


EVENT = Event(
    type="container",
    action="exec_create: ls -l",
    actor_id="ab" * 32,
    attributes={"name": "web", "image": "registry:5000/nginx:1", "app": "x"},
)


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("type", "container", "image"),
        ("event", "exec_create", "exec"),
        ("event", "exec_create: ls -l", "exec_create: ls"),
        ("container", "web", "we"),
        ("container", "abab", ""),
        ("image", "registry:5000/nginx:1", "nginx"),
        ("image", "registry:5000/nginx", "registry"),
        ("label", "app=x", "app=y"),
        ("scope", "local", "swarm"),
    ],
)
def test_events(key: str, good: str, bad: str) -> None:
    assert matches_event(EVENT, {key: [good]})
    assert not matches_event(EVENT, {key: [bad]})


def test_unknown_key() -> None:
    with pytest.raises(InvalidArgument, match="Invalid filter 'x'"):
        check_keys({"x": ["1"]}, frozenset({"y"}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12", 12_000_000_000),
        ("12.5", 12_500_000_000),
        ("1h30m", 10_000_000_000_000 - 5_400_000_000_000),
        ("10ms", 10_000_000_000_000 - 10_000_000),
        ("1970-01-01T00:01:00Z", 60_000_000_000),
        ("1970-01-01T01:01:00+01:00", 60_000_000_000),
        ("1970-01-02", 86_400_000_000_000),
    ],
)
def test_moments(text: str, expected: int) -> None:
    assert parse_moment(text, now=10_000_000_000_000) == expected


@pytest.mark.parametrize("text", ["", "x", "1x", "-5", "h1", "2020-13-01"])
def test_bad_moments(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_moment(text, now=0)


@pytest.mark.parametrize(
    ("values", "meant"), [(("true",), True), (("0",), False), (("1", "true"), True), (("FALSE",), False)]
)
def test_boolean_filter_reads_its_four_spellings(values: tuple[str, ...], meant: bool) -> None:
    assert boolean({"dangling": values}, "dangling") is meant


def test_absent_boolean_filter_is_none() -> None:
    assert boolean({}, "dangling") is None


@pytest.mark.parametrize("values", [("yes",), ("true", "false"), (), ("t",)])
def test_boolean_filter_refuses_anything_else(values: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgument, match="Invalid filter 'dangling="):
        boolean({"dangling": values}, "dangling")
