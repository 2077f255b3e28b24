"""`docker top` without ps: options, columns, and our own process as the example."""

from __future__ import annotations

import os

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.manager.processes import columns, listing, read_process


@pytest.mark.parametrize(
    ("told", "titles"),
    [
        ("", "UID PID PPID C STIME TTY TIME CMD"),
        ("-ef", "UID PID PPID C STIME TTY TIME CMD"),
        ("-e -f", "UID PID PPID C STIME TTY TIME CMD"),
        ("aux", "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"),
        ("-aux", "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"),
        ("-o pid,comm", "PID COMMAND"),
        ("-eo pid,args", "PID COMMAND"),
        ("o pid,user,pcpu", "PID USER %CPU"),
        ("-opid,cmd=WHAT", "PID WHAT"),
        ("-o pid -o rss", "PID RSS"),
        ("--format=pid,etime", "PID ELAPSED"),
    ],
)
def test_titles(told: str, titles: str) -> None:
    assert " ".join(title for _, title in columns(told)) == titles


@pytest.mark.parametrize(
    "told", ["-o comm", "-o pid,nosuch", "-Z", "--help", "-o 'pid", "-o", "-eo", "-o ''", "--format="]
)
def test_options_that_are_refused(told: str) -> None:
    with pytest.raises(InvalidArgument):
        columns(told)


def test_own_process() -> None:
    found = listing([os.getpid(), 2**22 + 1], "-o pid,ppid,user,comm,stat,time,etime,vsz")
    (row,) = found.rows
    assert row[:2] == (str(os.getpid()), str(os.getppid()))
    info = read_process(os.getpid())
    assert info is not None and info.uid == os.getuid() and info.threads >= 1


def test_name_with_spaces_and_parentheses() -> None:
    before = open("/proc/self/comm").read().strip()  # noqa: SIM115, PTH123
    try:
        open("/proc/self/comm", "w").write("a) (b c")  # noqa: SIM115, PTH123
        info = read_process(os.getpid())
        assert info is not None and info.name == "a) (b c" and info.ppid == os.getppid()
    finally:
        open("/proc/self/comm", "w").write(before)  # noqa: SIM115, PTH123
