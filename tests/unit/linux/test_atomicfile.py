"""Reading a file up to a limit, in however many pieces it comes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bulkhead.linux import atomicfile


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 400_000])
@pytest.mark.parametrize("limit", [1, 65_536, 100_000, 4 << 20])
def test_a_file_is_read_to_its_end_or_the_limit(tmp_path: Path, size: int, limit: int) -> None:
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    assert atomicfile.read(tmp_path / "file", limit) == content[:limit]


def test_what_comes_in_pieces_is_read_to_its_end() -> None:
    """A file of procfs may give less at once than was asked for."""
    assert atomicfile.read("/proc/self/mountinfo", 4 << 20) == Path("/proc/self/mountinfo").read_bytes()
