"""The index of containers: found by all that they are called and use, at the same cost beside ten and a thousand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bulkhead.errors import InvalidArgument, NotFound
from bulkhead.manager.index import Index
from bulkhead.model.container import Container, ContainerSpec, Mount, NetworkEndpoint
from bulkhead.model.lifecycle import Phase
from bulkhead.model.replacing import replace
from tests.support.steps import steps

IMAGE, NETWORK = f"sha256:{'1' * 64}", "2" * 64


def container(number: int, *volumes: str, phase: Phase = Phase.CREATED, links: tuple[str, ...] = ()) -> Container:
    mounts = tuple(Mount(type="volume", source=volume, target=f"/{volume}") for volume in volumes)
    return Container(
        id=f"{number:04x}" * 16,
        name=f"c{number}",
        spec=ContainerSpec(image="busybox", mounts=mounts, links=links),
        image_id=IMAGE,
        phase=phase,
        endpoints=(NetworkEndpoint(network_id=NETWORK, network_name="side"),),
        created_at=number,
    )


def index_of(*containers: Container) -> Index:
    index = Index()
    for each in containers:
        index.put(each)
    return index


def names(containers: list[Container]) -> list[str]:
    return [each.name for each in containers]


def test_a_beginning_of_an_id_is_enough_if_it_is_one_containers() -> None:
    index = index_of(container(0xAB00), container(0xAB01), container(0xAC00))
    assert index.find("ac").name == index.find("ac00ac00ac00").name == "c44032"
    with pytest.raises(InvalidArgument, match="multiple IDs found with provided prefix: ab"):
        index.find("ab")
    index.drop(container(0xAB01).id)
    assert index.find("ab").name == "c43776"
    for absent in ("ad", "ab01", "AC", "ac" * 40):
        with pytest.raises(NotFound):
            index.find(absent)


def test_volumes_know_their_users_until_those_are_gone_or_mounted_otherwise() -> None:
    index = index_of(container(1, "data", "cache"), container(2, "data"))
    assert names(index.users_of_volume("data")) == ["c1", "c2"]
    index.put(replace(index.find("c1"), phase=Phase.RUNNING))
    assert names(index.users_of_volume("data")) == ["c1", "c2"]
    index.put(container(1, "cache"))
    assert names(index.users_of_volume("data")) == ["c2"]
    index.drop(container(2).id)
    assert (index.users_of_volume("data"), names(index.users_of_volume("cache"))) == ([], ["c1"])


def test_a_networks_members_live_and_are_on_it() -> None:
    index = index_of(container(1), container(2, phase=Phase.RUNNING))
    assert names(index.members(NETWORK)) == ["c2"]
    index.put(replace(index.find("c1"), phase=Phase.RUNNING))
    index.put(replace(index.find("c2"), phase=Phase.PAUSED))
    assert names(index.members(NETWORK)) == ["c2", "c1"]
    index.put(replace(index.find("c2"), endpoints=()))
    index.put(replace(index.find("c1"), phase=Phase.EXITED))
    assert index.members(NETWORK) == []


def test_an_images_containers_are_told_by_whether_they_run() -> None:
    index = index_of(container(1), container(2, phase=Phase.RUNNING))
    assert (list(index.running_from(IMAGE)), list(index.idle_from(IMAGE))) == ([container(2).id], [container(1).id])
    index.put(replace(index.find("c2"), phase=Phase.RESTARTING))
    index.put(replace(index.find("c1"), phase=Phase.DEAD))
    assert (list(index.running_from(IMAGE)), list(index.idle_from(IMAGE))) == ([container(2).id], [container(1).id])
    index.put(replace(index.find("c2"), phase=Phase.EXITED))
    assert (list(index.running_from(IMAGE)), len(index.idle_from(IMAGE))) == ([], 2)
    index.drop(container(1).id)
    assert list(index.idle_from(IMAGE)) == [container(2).id]


def test_those_that_run_are_known_without_the_others() -> None:
    index = index_of(container(1), container(2, phase=Phase.RUNNING), container(3, phase=Phase.RESTARTING))
    assert names(list(index.running())) == ["c2", "c3"]
    index.put(replace(index.find("c1"), phase=Phase.PAUSED))
    index.put(replace(index.find("c2"), name="other"))
    assert names(list(index.running())) == ["other", "c3", "c1"]
    index.put(replace(index.find("c3"), phase=Phase.EXITED))
    index.drop(container(2).id)
    assert names(list(index.running())) == ["c1"]


def test_links_are_known_from_the_other_end() -> None:
    child = container(1)
    index = index_of(child, container(3, links=(f"{child.id}:db",)), container(2, links=(f"{child.id}:db",)))
    assert names(index.linkers(child.id)) == ["c2", "c3"]
    index.drop(container(3).id)
    assert names(index.linkers(child.id)) == ["c2"]


def absent(index: Index) -> None:
    with pytest.raises(NotFound):
        index.find("beef")


@pytest.mark.parametrize(
    "act",
    [
        lambda index: index.find(container(3).id[:12]),
        lambda index: index.find("0003"),
        absent,
        lambda index: index.users_of_volume("v3"),
        lambda index: index.members(NETWORK),
        lambda index: [each.name for each in index.running()],
        lambda index: next(iter(index.idle_from(IMAGE))),
        lambda index: index.put(replace(index.get(container(3).id), phase=Phase.RUNNING)),
        lambda index: index.drop(container(3).id),
        lambda index: index.put(container(0xFFFF, "v3")),
    ],
)
def test_one_costs_the_same_beside_ten_and_a_thousand(act: Callable[[Index], object]) -> None:
    few, many = (index_of(*(container(number, f"v{number}") for number in range(count))) for count in (10, 1000))
    act(index_of(*(container(number, f"v{number}") for number in range(10))))  # warm
    assert steps(lambda: act(many)) == steps(lambda: act(few))
