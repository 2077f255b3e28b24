"""How an exec went is read as it was written, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkhead.wire import ended_execs

# In one slot.
EXEC, OTHER = "10" + "a" * 62, "20" + "b" * 62


@pytest.fixture
def written(tmp_path: Path) -> Iterator[int]:
    descriptor = ended_execs.create(str(tmp_path))
    yield descriptor
    os.close(descriptor)


def test_it_is_read_as_it_was_written(tmp_path: Path, written: int) -> None:
    ended_execs.write(written, EXEC, b"one")
    ended_execs.write(written, "0f" + "c" * 62, b"another")
    assert ended_execs.read(str(tmp_path), EXEC) == b"one"
    assert ended_execs.read(str(tmp_path), "0f" + "c" * 62) == b"another"


def test_a_later_one_takes_its_place(tmp_path: Path, written: int) -> None:
    ended_execs.write(written, EXEC, b"a long line of an earlier one")
    ended_execs.write(written, OTHER, b"later")
    assert ended_execs.read(str(tmp_path), EXEC) == b"later"


def test_all_are_read_that_are_whole(tmp_path: Path, written: int) -> None:
    assert ended_execs.read_all(str(tmp_path)) == []
    ended_execs.write(written, EXEC, b"one")
    ended_execs.write(written, "0f" + "c" * 62, b"another")
    assert ended_execs.read_all(str(tmp_path)) == [b"one", b"another"]
    os.pwrite(written, b"X", 8)
    assert ended_execs.read_all(str(tmp_path)) == [b"another"]
    assert ended_execs.read_all(str(tmp_path / "nobody")) == []


def test_where_nothing_was_written_is_nothing(tmp_path: Path, written: int) -> None:
    assert ended_execs.read(str(tmp_path), EXEC) == b""
    ended_execs.write(written, "1f" + "c" * 62, b"behind it")
    assert ended_execs.read(str(tmp_path), EXEC) == b""
    assert ended_execs.read(str(tmp_path / "nobody"), EXEC) == b""


@pytest.mark.parametrize("length", range(1, 8 + len(b"half of it")))
def test_what_is_half_written_is_nothing(tmp_path: Path, written: int, length: int) -> None:
    ended_execs.write(written, EXEC, b"half of it")
    path = tmp_path / ended_execs.NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:length] + bytes(len(whole) - length))
    assert ended_execs.read(str(tmp_path), EXEC) == b""
    path.write_bytes(whole[:length])
    assert ended_execs.read(str(tmp_path), EXEC) == b""


def test_what_does_not_fit_is_not_written(tmp_path: Path, written: int) -> None:
    ended_execs.write(written, EXEC, b"x" * 1016)
    assert len(ended_execs.read(str(tmp_path), EXEC)) == 1016
    ended_execs.write(written, EXEC, b"y" * 1017)
    assert ended_execs.read(str(tmp_path), EXEC) == b"x" * 1016
