"""Changed records are what the standard library would make of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.model.container import Container, ContainerSpec
from bulkhead.model.network import PortBinding
from bulkhead.model.replacing import replace

SPEC = ContainerSpec(image="busybox", command=("true",), labels={"a": "b"})
CONTAINER = Container(id="a" * 64, name="one", spec=SPEC, image_id="i", path="true", created_at=5)


@dataclass
class Loose:
    """No slots."""

    first: int
    second: int = 2


@dataclass(slots=True)
class Counted:
    """A field that __init__ does not take."""

    first: int
    second: int = field(default=7, init=False)


@pytest.mark.parametrize("name", [each.name for each in dataclasses.fields(Container)])
def test_each_field_of_a_container_can_be_changed(name: str) -> None:
    other: dict[str, Any] = {name: "another"}
    changed = replace(CONTAINER, **other)
    assert changed == dataclasses.replace(CONTAINER, **other)
    assert getattr(changed, name) == "another"
    assert CONTAINER.id == "a" * 64


def test_what_is_not_changed_is_the_same_object() -> None:
    changed = replace(CONTAINER, name="two")
    assert changed.spec is SPEC
    assert changed == dataclasses.replace(CONTAINER, name="two")
    assert hash(replace(CONTAINER.spec.resources)) == hash(CONTAINER.spec.resources)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError):
        replace(CONTAINER, colour="blue")  # type: ignore[call-arg]


def test_a_class_that_checks_its_values_checks_them_again() -> None:
    with pytest.raises(InvalidArgument):
        replace(PortBinding(container_port=80), protocol="smoke")


def test_a_class_without_slots_is_changed_too() -> None:
    assert replace(Loose(1), second=3) == Loose(1, 3)


def test_a_field_that_is_not_given_at_the_making_is_refused_as_ever() -> None:
    with pytest.raises(ValueError, match="init=False"):
        replace(Counted(1), second=3)
