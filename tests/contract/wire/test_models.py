"""`wire.models` against `wire.convert` and the messages that it does without."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from bulkhead.api.ports.execs import InspectedExec
from bulkhead.model.container import ContainerSpec
from bulkhead.wire import models
from bulkhead.wire.convert import to_message, to_model
from bulkhead.wire.creation import Creating, CreatingExec
from bulkhead.wire.gen.bulkhead.manager.v1 import CreateContainerRequest, CreateExecRequest, InspectExecResponse
from bulkhead.wire.gen.bulkhead.types import v1 as types
from tests.contract.wire.test_protobuf import filled

ROUNDS = 40
PAIRS = (
    (ContainerSpec, types.ContainerSpec),
    (Creating, CreateContainerRequest),
    (CreatingExec, CreateExecRequest),
    (InspectedExec, InspectExecResponse),
)


@pytest.mark.parametrize(("model", "message"), PAIRS, ids=lambda each: each.__name__)
def test_bytes_are_read_as_the_model_of_their_message(model: type[Any], message: type[Any]) -> None:
    for seed in range(ROUNDS):
        told = filled(message, Random(seed))
        assert models.decode(model, message, bytes(told)) == to_model(model, told)


@pytest.mark.parametrize(("model", "message"), PAIRS, ids=lambda each: each.__name__)
def test_models_are_written_as_their_message(model: type[Any], message: type[Any]) -> None:
    for seed in range(ROUNDS):
        record = to_model(model, filled(message, Random(seed)))
        assert message.parse(models.encode(message, record)) == to_message(message, record)


@pytest.mark.parametrize("data", [b"\x0a\x05ab", b"\x12\x02\x0a", b"\xff" * 12], ids=["text", "spec", "key"])
def test_bytes_that_are_cut_short_are_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="cannot decode"):
        Creating.FromString(data)


def test_a_spec_that_says_nothing_is_one_that_says_nothing() -> None:
    assert Creating.FromString(b"") == Creating()
    assert Creating.FromString(bytes(Creating(name="web"))) == Creating(name="web")
