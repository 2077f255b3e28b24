"""A log below the run directory is memory: it must stay small by itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bulkhead.logfile import open_log, rotate


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "manager.log"


def test_a_large_log_starts_anew_and_the_old_one_is_kept_once(log: Path) -> None:
    fd = open_log(log)
    for text in (b"first " * 4, b"second" * 4, b"third"):
        os.write(fd, text)
        rotate(fd, limit=10)
    os.close(fd)
    assert log.read_bytes() == b"third"
    assert Path(f"{log}.1").read_bytes() == b"second" * 4


def test_a_small_log_is_left(log: Path) -> None:
    fd = open_log(log)
    os.write(fd, b"1234567890")
    assert not rotate(fd, limit=10)
    os.close(fd)


def test_what_is_no_log_file_is_left(tmp_path: Path) -> None:
    """An operator who runs a service by hand keeps what stderr was pointed at."""
    other = tmp_path / "notes.txt"
    other.write_bytes(b"x" * 100)
    reader, writer = os.pipe()
    os.write(writer, b"x" * 100)
    fd = os.open(other, os.O_WRONLY)
    assert not rotate(writer, limit=10)
    assert not rotate(fd, limit=10)
    for each in (reader, writer, fd):
        os.close(each)
    assert other.read_bytes() == b"x" * 100


def test_a_log_that_was_moved_away_is_left(log: Path) -> None:
    fd = open_log(log)
    os.write(fd, b"x" * 100)
    log.unlink()
    assert not rotate(fd, limit=10)
    os.close(fd)


def test_a_log_is_not_opened_through_a_link(log: Path, tmp_path: Path) -> None:
    log.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        open_log(log)
