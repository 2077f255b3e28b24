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
