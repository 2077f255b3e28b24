"""What a successor states as lost when it was given its predecessor's descriptors."""

from __future__ import annotations

import os

import pytest

from bulkhead.model.losses import Lost
from bulkhead.shim import inheritance
from bulkhead.shim.exits import TaskRecord
from bulkhead.shim.inheritance import Legacy
from bulkhead.shim.journal import FIRST, SECOND, Journal, Place

RECORD = TaskRecord(pid=1, start_time=2, boot_id="boot", started_at=3, log_driver="json-file", log_path="/nosuch")


def stated(journal: Journal, *names: str) -> list[tuple[str, int]]:
    kept = {name: journal.descriptors[name] for name in names}
    return [(loss.what, loss.since) for loss in inheritance.losses(RECORD, Legacy(pidfd=-1, streams=kept))]


def test_a_journal_that_works_loses_nothing() -> None:
    journal = Journal.make()
    journal.begin(Place())
    assert stated(journal, FIRST, SECOND) == []
    journal.close()


@pytest.mark.parametrize("what", ["given up", "another version's", "none", "half"])
def test_without_its_journal_log_may_be_lost_though_its_pipes_were_kept(what: str) -> None:
    journal = Journal.make()
    journal.begin(Place())
    names = {"none": (), "half": (FIRST,)}.get(what, (FIRST, SECOND))
    if what == "given up":
        # As without memory for it.
        os.ftruncate(journal.descriptors[FIRST], 0)
    elif what == "another version's":
        os.pwrite(journal.descriptors[FIRST], b"\xff", 0)
    assert stated(journal, *names) == [(Lost.LOG.value, 3)]
    journal.close()
