"""Directories whose children are told apart by the file system."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bulkhead.linux.inode_groups import are_children_spread, spread_children


def _is_ext(directory: Path) -> bool:
    command = ["stat", "--file-system", "--format=%T", str(directory)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.startswith("ext")


def test_the_attribute_is_set_and_stays(tmp_path: Path) -> None:
    if not _is_ext(tmp_path):
        pytest.skip("only the ext file systems have the attribute")
    assert not are_children_spread(tmp_path)
    spread_children(tmp_path)
    spread_children(tmp_path)
    assert are_children_spread(tmp_path)
    (tmp_path / "child").mkdir()
    assert not are_children_spread(tmp_path / "child")


def test_a_file_system_without_it_is_left_alone() -> None:
    spread_children(Path("/proc/self/task"))


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        spread_children(tmp_path / "none")
