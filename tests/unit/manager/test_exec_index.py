"""The index of execs: what was put is found each way, what was dropped nowhere."""

from __future__ import annotations

from dataclasses import replace

from bulkhead.manager.exec_index import ExecIndex
from bulkhead.model.execs import Exec, ExecPhase, ExecSpec

FIRST, SECOND, OTHER = (
    Exec(id=digit * 64, container_id=container, spec=ExecSpec(command=("true",)))
    for digit, container in (("a", "one"), ("b", "one"), ("c", "two"))
)


def test_found_by_id_container_and_short_id() -> None:
    index = ExecIndex((FIRST, SECOND, OTHER))
    assert list(index) == [FIRST, SECOND, OTHER]
    assert index.get("b" * 64) is SECOND
    assert index.of("one") == [FIRST, SECOND]
    assert index.short_ids == {"a" * 12, "b" * 12, "c" * 12}
    ended = replace(FIRST, phase=ExecPhase.EXITED)
    index.put(ended)
    assert index.of("one") == [ended, SECOND]
    assert list(index) == [ended, SECOND, OTHER]


def test_dropped() -> None:
    index = ExecIndex((FIRST, SECOND, OTHER))
    index.drop(["a" * 64, "c" * 64, "d" * 64])
    assert list(index) == index.of("one") == [SECOND]
    assert index.get("a" * 64) is None
    assert index.of("two") == []
    assert index.short_ids == {"b" * 12}


def test_those_that_have_not_ended_are_told_apart() -> None:
    index = ExecIndex((FIRST, SECOND, OTHER))
    index.put(replace(FIRST, phase=ExecPhase.RUNNING))
    assert [each.id for each in index.unended("one")] == [FIRST.id, SECOND.id]
    index.put(replace(FIRST, phase=ExecPhase.EXITED, exit_code=0))
    index.put(replace(FIRST, phase=ExecPhase.EXITED, exit_code=1))  # its end is told again
    assert index.unended("one") == [SECOND]
    index.drop([SECOND.id, OTHER.id])
    assert index.unended("one") == index.unended("two") == []
    assert ExecIndex((replace(FIRST, phase=ExecPhase.EXITED), SECOND)).unended("one") == [SECOND]
