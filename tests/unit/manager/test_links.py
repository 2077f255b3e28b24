"""What a container is told of those it is linked to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bulkhead.errors import Internal, InvalidArgument
from bulkhead.manager import links
from bulkhead.manager.index import Index
from bulkhead.model.container import Container, ContainerSpec, NetworkEndpoint
from bulkhead.model.lifecycle import Phase

CHILD, PARENT = "c" * 64, "d" * 64


def _index(phase: Phase = Phase.RUNNING, **child: Any) -> Index:
    index = Index()
    on_bridge = (NetworkEndpoint(network_name="bridge", address="172.17.0.2"),)
    index.put(
        Container(id=CHILD, name="db", image_id="i", phase=phase, endpoints=on_bridge, spec=ContainerSpec(**child))
    )
    return index


def _parent(*texts: str) -> Container:
    on_bridge = (NetworkEndpoint(network_name="bridge"),)
    return Container(id=PARENT, name="app", image_id="i", endpoints=on_bridge, spec=ContainerSpec(links=texts))


@pytest.mark.parametrize(
    ("text", "link"),
    [("db", "db"), ("db:x", "x"), ("/db:/app/x", "x"), (CHILD[:12], CHILD[:12])],
)
def test_links_are_kept_by_id(text: str, link: str) -> None:
    assert links.resolve(ContainerSpec(links=(text,)), _index()) == (f"{CHILD}:{link}",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty string specified for links"),
        ("a:b:c", "bad format for links: a:b:c"),
        ("nosuch", "could not get container for nosuch: No such container: nosuch"),
    ],
)
def test_bad_links(text: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{reason}$"):
        links.resolve(ContainerSpec(links=(text,)), _index())


def test_a_link_to_the_hosts_network_is_none() -> None:
    with pytest.raises(InvalidArgument, match="host type networking can't be used with links"):
        links.resolve(ContainerSpec(links=("db",)), _index(network_mode="host"))


def test_networks_of_users_have_links_of_their_own() -> None:
    assert links.resolve(ContainerSpec(links=("nosuch",), network_mode="mine"), _index()) == ()


def test_ports_in_a_row_are_told_of_as_a_range_too() -> None:
    index = _index(exposed_ports=("5000-5002/tcp", "53/udp"), env=("A=b", "PATH=/x"))
    told = links.environment(_parent(f"{CHILD}:the-db"), index)
    assert told[0] == "THE_DB_PORT=udp://172.17.0.2:53"
    assert {
        "THE_DB_PORT_5000_TCP_START=tcp://172.17.0.2:5000",
        "THE_DB_PORT_5000_TCP_PORT_END=5002",
        "THE_DB_PORT_5001_TCP=tcp://172.17.0.2:5001",
        "THE_DB_PORT_53_UDP_PROTO=udp",
        "THE_DB_NAME=/app/the-db",
        "THE_DB_ENV_A=b",
    } <= set(told)
    assert not [each for each in told if "ENV_PATH" in each]


def test_a_linked_container_must_run() -> None:
    with pytest.raises(Internal, match="Cannot link to a non running container: /db AS /app/x"):
        links.environment(_parent(f"{CHILD}:x"), _index(Phase.EXITED))


def test_a_removed_child_is_forgotten() -> None:
    assert links.environment(_parent(f"{'e' * 64}:x"), _index()) == []
    assert links.shown(_parent(f"{'e' * 64}:x", f"{CHILD}:y"), _index()) == ["/db:/app/y"]


def test_hosts_knows_the_alias_and_the_childs_own_names() -> None:
    assert links.hosts(_parent(f"{CHILD}:x"), _index(hostname="box")) == [("172.17.0.2", "x box db")]


def test_links_name_their_child_until_they_go() -> None:
    index = _index()
    index.put(_parent(f"{CHILD}:x", f"{CHILD}:y"))
    assert links.names(index) == {CHILD: ["app/x", "app/y"]}
    assert links.parents(index.get(CHILD), index) == []
    index.put(replace(_parent(f"{CHILD}:x"), phase=Phase.RUNNING))
    assert [(parent.id, alias) for parent, alias in links.parents(index.get(CHILD), index)] == [(PARENT, "x")]
    assert links.names(index) == {CHILD: ["app/x"]}


def test_a_container_knows_who_links_to_it() -> None:
    """Without a look at all others: each start asks."""
    index = _index()
    index.put(_parent(f"{CHILD}:x", f"{CHILD}:y"))
    index.put(_parent(f"{CHILD}:x"))
    assert [each.id for each in index.linkers(CHILD)] == [PARENT]
    index.put(_parent())
    assert index.linkers(CHILD) == []
    index.put(_parent(f"{CHILD}:x"))
    index.drop(PARENT)
    assert index.linkers(CHILD) == []
