"""A shim's records, however large: a successor reads what was written, and an end is written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bulkhead.model.losses import Loss, Lost
from bulkhead.shim.container import Container
from bulkhead.shim.exits import ExitRecord, Facts, TaskRecord
from bulkhead.shim.identity import Identity
from bulkhead.shim.loop import Loop

LOSSES = tuple(Loss(what=each.value, since=number, until=number + 1) for number in range(1, 1001) for each in Lost)


def test_the_losses_of_a_thousand_deaths_fit_into_the_exit_record(tmp_path: Path) -> None:
    container = _container(tmp_path)
    for loss in LOSSES:
        container.note_losses((loss,))
    container._conclude(None)
    text = (tmp_path / "exit.json").read_bytes()
    # In the blocks that were reserved for it.
    assert len(text) <= 4096
    found = json.loads(text)["losses"]
    assert [(each["what"], each["since"]) for each in found] == [(each.value, 1) for each in Lost]


def test_an_exit_record_that_outgrows_its_reserve_is_written_all_the_same(tmp_path: Path) -> None:
    facts = Facts(str(tmp_path))
    facts.begin()
    facts.write_exit(ExitRecord(exit_code=3, exited_at=4, losses=LOSSES))
    assert facts.read_exit() == ExitRecord(exit_code=3, exited_at=4, losses=LOSSES)
    assert [each.name for each in tmp_path.iterdir()] == ["exit.json"]


def test_a_task_record_with_many_labels_is_read_again(tmp_path: Path) -> None:
    """Cut short, it would be none: the successor would take a live container for a new one."""
    labels = json.dumps({"label": "\N{SNOWMAN}" * 60_000})
    record = TaskRecord(pid=1, start_time=2, boot_id="boot", log_attributes=labels)
    facts = Facts(str(tmp_path))
    facts.write_task(record)
    assert facts.read_task() == record


def _unexpected(event: str, error: BaseException) -> None:
    raise AssertionError(event) from error


@pytest.mark.parametrize(
    ("waiting", "told"),
    [
        ("", ["file", "directory", "later"]),
        ("r", ["r", "later"]),
        ("rr", ["r", "r", "later"]),
        ("rw", ["file", "directory", "r", "w", "later"]),
        ("w", ["file", "directory", "w", "later"]),
        ("d", ["file", "directory", "d", "later"]),
    ],
)
def test_nobody_hears_of_an_end_before_it_is_durable_but_who_records_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waiting: str, told: list[str]
) -> None:
    """By `r` who records it, by `d` one of those who has died meanwhile, by `w` who only waits."""
    container, heard = _ending(tmp_path, monkeypatch)
    for who in waiting:
        container.when_exited(_told(heard, who), partial(str.__eq__, who, "r") if who in "rd" else None)
    container._conclude(3)
    container.when_exited(_told(heard, "later"), lambda: True)
    assert heard == told
    assert container._facts.read_exit() == container.exit


@pytest.mark.parametrize("company", [True, False])
def test_an_end_that_was_not_durable_is_when_somebody_asks_who_does_not_record_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, company: bool
) -> None:
    """The other may not have asked yet, only be there."""
    container, heard = _ending(tmp_path, monkeypatch)
    if company:
        container.telling.has_company = lambda: True
    else:
        container.when_exited(_told(heard, "r"), lambda: True)
    container._conclude(3)
    for who in ("first", "second"):
        container.when_exited(_told(heard, who))
    assert heard == [*([] if company else ["r"]), "file", "directory", "first", "second"]


def test_an_end_that_nobody_has_asked_for_is_durable_after_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    container, heard = _ending(tmp_path, monkeypatch)
    container.telling.has_company = lambda: True
    loop = container._loop
    loop.open()
    try:
        container._conclude(3)
        assert heard == []
        while not heard:
            loop.turn(loop._patience())
        assert heard == ["file", "directory"]
    finally:
        loop.close()


def _told(heard: list[str], who: str) -> Callable[[ExitRecord], None]:
    return lambda _: heard.append(who)


def _ending(place: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Container, list[str]]:
    """A container whose process has ended, and what will be told to whom, and synced."""
    heard: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: heard.append("directory" if os.path.isdir(fd) else "file"))  # noqa: PTH112
    return _container(place), heard


def _container(place: Path) -> Container:
    facts = Facts(str(place))
    facts.begin()
    facts.write_task(TaskRecord(pid=1, start_time=2, boot_id="another boot"))
    loop: Any = Loop(_unexpected)
    container = Container(loop, loop, loop, _unexpected)
    container._facts = facts
    container.telling.claim(facts)
    container.identity = Identity("ab" * 32, "", str(place))
    container._record = facts.read_task()
    return container
