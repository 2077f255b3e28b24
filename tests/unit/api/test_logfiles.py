"""A cursor over real files: rotation, compression, truncation, tails."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from bulkhead.api.adapters.logfiles import BLOCK, FileCursor, open_log
from bulkhead.api.schema.times import SECOND, rfc3339
from bulkhead.errors import Internal
from tests.support.descriptors import left_since, open_descriptors

START = 1_700_000_000 * SECOND


def lines(first: int, last: int, filler: str = "") -> bytes:
    """Lines numbered from `first` to `last`, one second apart."""
    records = (
        {"log": f"{number}{filler}\n", "stream": "stdout", "time": rfc3339(START + number * SECOND)}
        for number in range(first, last + 1)
    )
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def numbers(cursor: FileCursor) -> list[int]:
    """The numbers of the lines up to the end for now."""
    read = b""
    while block := cursor.read():
        assert block.endswith(b"\n")
        read += block
    return [int("".join(filter(str.isdigit, json.loads(line)["log"]))) for line in read.splitlines()]


def up_to(first: int, last: int) -> list[int]:
    return list(range(first, last + 1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x-json.log"


def opened(path: Path, tail: int | None = None, since: int | None = None) -> FileCursor:
    return open_log(str(path), tail, since)


def test_rotated_and_compressed_files_are_read_oldest_first(path: Path) -> None:
    with gzip.open(f"{path}.2.gz", "wb") as packed:
        packed.write(lines(1, 10))
    Path(f"{path}.1").write_bytes(lines(11, 20))
    path.write_bytes(lines(21, 30))
    assert numbers(opened(path)) == up_to(1, 30)


@pytest.mark.parametrize("tail", [0, 1, 9, 10, 11, 20, 25, 30, 31, 1000])
def test_tail_counts_over_files(path: Path, tail: int) -> None:
    with gzip.open(f"{path}.2.gz", "wb") as packed:
        packed.write(lines(1, 10))
    Path(f"{path}.1").write_bytes(lines(11, 20))
    path.write_bytes(lines(21, 30))
    assert numbers(opened(path, tail)) == up_to(max(31 - tail, 1), 30)


def test_tail_reads_only_the_end_of_a_large_file(path: Path) -> None:
    path.write_bytes(lines(1, 20_000, " " * 100))
    cursor = opened(path, 3)
    assert cursor._sources[-1].raw.tell() > path.stat().st_size - 1000
    assert numbers(cursor) == [19_998, 19_999, 20_000]


def test_since_is_found_by_bisection(path: Path) -> None:
    path.write_bytes(lines(1, 20_000, " " * 100))
    cursor = opened(path, since=START + 15_000 * SECOND)
    assert cursor._sources[-1].raw.tell() > path.stat().st_size // 2
    assert numbers(cursor)[-5_001:] == up_to(15_000, 20_000)


def test_a_partial_line_waits_for_its_end(path: Path) -> None:
    whole = lines(1, 2)
    path.write_bytes(whole[:-10])
    cursor = opened(path)
    assert numbers(cursor) == [1]
    with path.open("ab") as file:
        file.write(whole[-10:])
    assert numbers(cursor) == [2]


def test_growth_is_read_on(path: Path) -> None:
    path.write_bytes(lines(1, 3))
    cursor = opened(path)
    assert numbers(cursor) == [1, 2, 3]
    assert numbers(cursor) == []
    with path.open("ab") as file:
        file.write(lines(4, 5))
    assert numbers(cursor) == [4, 5]


def test_nothing_is_lost_over_rotations(path: Path) -> None:
    """Lines written between the last read and the rotation, and files that came and went meanwhile."""
    path.write_bytes(lines(1, 3))
    cursor = opened(path)
    assert numbers(cursor) == [1, 2, 3]
    with path.open("ab") as file:
        file.write(lines(4, 5))
    path.rename(f"{path}.2")
    Path(f"{path}.1").write_bytes(lines(6, 8))
    path.write_bytes(lines(9, 10))
    assert numbers(cursor) == up_to(4, 10)
    path.rename(f"{path}.1")
    path.write_bytes(lines(11, 11))
    assert numbers(cursor) == [11]


def test_a_file_that_was_dropped_while_open_is_followed_by_the_newest(path: Path) -> None:
    path.write_bytes(lines(1, 3))
    cursor = opened(path)
    assert numbers(cursor) == [1, 2, 3]
    path.unlink()
    path.write_bytes(lines(4, 5))
    os.utime(path, ns=(2 * 10**18, 2 * 10**18))
    assert numbers(cursor) == [4, 5]


def test_truncation_starts_again(path: Path) -> None:
    path.write_bytes(lines(1, 50))
    cursor = opened(path)
    assert numbers(cursor) == up_to(1, 50)
    path.write_bytes(b"")
    assert numbers(cursor) == []
    with path.open("ab") as file:
        file.write(lines(51, 52))
    assert numbers(cursor) == [51, 52]


def test_a_log_that_does_not_exist_yet_is_empty_then_found(path: Path) -> None:
    cursor = opened(path, 10)
    assert numbers(cursor) == []
    path.write_bytes(lines(1, 2))
    assert numbers(cursor) == [1, 2]


def test_a_damaged_archive_costs_only_itself(path: Path) -> None:
    Path(f"{path}.1.gz").write_bytes(gzip.compress(lines(1, 10))[:-20])
    path.write_bytes(lines(11, 12))
    assert numbers(opened(path))[-2:] == [11, 12]


def test_what_is_no_file_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(Internal, match="cannot read log"):
        opened(path)


def test_a_symlink_is_not_followed(path: Path, tmp_path: Path) -> None:
    """The name of a log must not show another file of the host."""
    (tmp_path / "secret").write_bytes(lines(1, 2))
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(Internal, match="cannot read log"):
        opened(path)


def test_no_descriptor_is_left(path: Path) -> None:
    Path(f"{path}.1.gz").write_bytes(gzip.compress(lines(1, 10)))
    path.write_bytes(lines(11, 20))
    before = open_descriptors()
    for tail in (None, 3, 15):
        cursor = opened(path, tail)
        numbers(cursor)
        cursor.close()
    assert not left_since(before)


def test_blocks_are_bounded(path: Path) -> None:
    path.write_bytes(lines(1, 20_000, " " * 100))
    assert len(opened(path).read()) <= BLOCK
