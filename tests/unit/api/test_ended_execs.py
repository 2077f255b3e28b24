"""How an exec went, as its shim has left it: of no other, and not for long."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest

from bulkhead.api.adapters.shim_execs import ShimExecs
from bulkhead.api.ports.execs import InspectedExec
from bulkhead.model.execs import Exec, ExecSpec
from bulkhead.model.ids import container_of
from bulkhead.model.instance import Instance
from bulkhead.wire import ended_execs

SHORT = "c" * 12
ONE, OTHER = "10" + "a" * 50 + SHORT, "20" + "b" * 50 + SHORT
SPEC = ExecSpec(command=("sh", "-c", "exit 3"), attach_stdout=True)


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    instance = Instance(run=tmp_path / "run", data=tmp_path / "data")
    instance.container_run(container_of(ONE)).mkdir(parents=True)
    return instance


def leave(instance: Instance, line: bytes) -> None:
    descriptor = ended_execs.create(str(instance.container_run(container_of(ONE))))
    ended_execs.write(descriptor, ONE, line)
    os.close(descriptor)


def line(ago: float = 0.0) -> bytes:
    record = Exec(id=ONE, container_id=SHORT * 5 + "cccc", spec=SPEC)
    ended = time.time_ns() - int(ago * 1e9)
    return msgspec.json.encode({"record": record, "began_at": 1, "exited_at": ended, "exit_code": 3})


async def test_it_is_told_as_its_shim_has_left_it(instance: Instance) -> None:
    leave(instance, line())
    expected = InspectedExec(id=ONE, container_id=SHORT * 5 + "cccc", spec=SPEC, started=True, exit_code=3)
    assert ShimExecs(instance).ended(ONE) == expected


async def test_another_one_in_its_place_is_none(instance: Instance) -> None:
    leave(instance, line())
    assert ShimExecs(instance).ended(OTHER) is None


@pytest.mark.parametrize("ago", [6.0, -60.0])
async def test_one_of_another_time_is_the_managers_to_tell_of(instance: Instance, ago: float) -> None:
    leave(instance, line(ago))
    assert ShimExecs(instance).ended(ONE) is None


@pytest.mark.parametrize("left", [b"no line", b'{"record":{}}', b"{}"])
async def test_what_cannot_be_read_is_none(instance: Instance, left: bytes) -> None:
    leave(instance, left)
    assert ShimExecs(instance).ended(ONE) is None


@pytest.mark.parametrize("exec_id", [ONE[:12], "", "../" + ONE[3:], "d" * 64])
async def test_of_whom_nothing_was_left_there_is_nothing(instance: Instance, exec_id: str) -> None:
    leave(instance, line())
    assert ShimExecs(instance).ended(exec_id) is None
