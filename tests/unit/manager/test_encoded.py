"""Answers put together from bytes say what the generated messages would say."""

from __future__ import annotations

from dataclasses import replace

from bulkhead.manager.index import Index
from bulkhead.manager.servicers.encoded import EncodedContainers, inspect_answer, list_answer
from bulkhead.model.container import Container, ContainerSpec
from bulkhead.wire.convert import to_message
from bulkhead.wire.gen.bulkhead.manager import v1 as api
from bulkhead.wire.gen.bulkhead.types import v1 as types
from bulkhead.wire.protobuf import encode


def _container(number: int) -> Container:
    spec = ContainerSpec(image="busybox", labels={"text": "x" * number})
    return Container(id=f"{number:064x}", name=f"name{number}", image_id="sha256:1", spec=spec)


def _encode(container: Container) -> types.Container:
    return to_message(types.Container, container)


def test_list_and_inspect_are_parsed_as_if_encoded_whole() -> None:
    # Lengths on both sides of one and two bytes of varint.
    containers = [_container(number) for number in (0, 1, 100, 127, 128, 20_000)]
    index = Index()
    encoded = EncodedContainers(index, lambda each: types.ContainerSummary(id=each.id, labels=dict(each.spec.labels)))
    listed = api.ListContainersResponse.parse(list_answer(map(encoded.of, containers)).SerializeToString())
    assert [each.id for each in listed.containers] == [each.id for each in containers]
    assert listed.containers[-1].labels == {"text": "x" * 20_000}
    details = EncodedContainers(index, _encode)
    answer = inspect_answer(details.of(containers[3]), encode(types.Container(exec_ids=["e1", "e2"], size_rw=-1)))
    expected = _encode(containers[3])
    expected.exec_ids, expected.size_rw = ["e1", "e2"], -1
    assert api.InspectContainerResponse.parse(answer.SerializeToString()).container == expected
    assert isinstance(answer, api.InspectContainerResponse)


def test_empty_list() -> None:
    assert api.ListContainersResponse.parse(list_answer([]).SerializeToString()).containers == []


def test_bytes_are_made_anew_when_the_record_changes() -> None:
    calls: list[str] = []

    def encode(container: Container) -> types.Container:
        calls.append(container.name)
        return _encode(container)

    encoded = EncodedContainers(Index(), encode)
    first = _container(1)
    assert encoded.of(first) == encoded.of(first)
    assert encoded.of(replace(first, name="new")) != encoded.of(first)
    assert calls == ["name1", "new", "name1"]


def test_removed_containers_are_forgotten() -> None:
    encoded = EncodedContainers(Index(), _encode)
    for number in range(1000):
        encoded.of(_container(number))
    assert len(encoded._known) < 300
