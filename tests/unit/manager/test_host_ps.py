"""`docker top` by the host's ps: our own process as the example."""

from __future__ import annotations

import os
import shutil

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.manager.host_ps import listing

pytestmark = pytest.mark.skipif(shutil.which("ps") is None, reason="no ps on this machine")


@pytest.mark.parametrize("told", ["-ww -o pid,args", "axf -o pid,args", "-j", "-Lf", "-eo pid,cmd --sort=pid"])
def test_the_processes_asked_for_and_no_others(told: str) -> None:
    found = listing([os.getpid(), 2**22 + 1], told)
    place = found.titles.index("PID")
    assert {row[place] for row in found.rows} == {str(os.getpid())}


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("-o pid\0,args", "ps: embedded null byte"),
        ("-o nosuch", "ps: error: unknown user-defined format specifier"),
        ("-o comm", "Couldn't find PID field in ps output"),
        ("-o pid=X -o comm=PID", 'specifying "comm=PID" is not allowed'),
    ],
)
def test_what_is_refused(told: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        listing([os.getpid()], told)
