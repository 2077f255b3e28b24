"""Bytes of trees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bulkhead.manager.tree_sizes import TreeSizes, bytes_below


async def test_of_each_tree_hard_links_once(tmp_path: Path) -> None:
    (tmp_path / "tree" / "below").mkdir(parents=True)
    (tmp_path / "tree" / "file").write_bytes(bytes(100))
    (tmp_path / "tree" / "below" / "link").hardlink_to(tmp_path / "tree" / "file")
    (tmp_path / "tree" / "below" / "other").write_bytes(bytes(10))
    assert await TreeSizes().below([tmp_path / "absent", tmp_path / "tree"]) == [0, 110]


def test_a_link_to_a_directory_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(bytes(1000))
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "way").symlink_to("../outside")
    assert bytes_below(tmp_path / "tree") == len("../outside")


def test_what_vanishes_or_cannot_be_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gone", "bad", "kept"):
        (tmp_path / name).write_bytes(bytes(10))
    stat = os.stat

    def failing(path: str, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        if path == "bad":
            raise OSError(5, "Input/output error")
        if path == "gone":
            raise FileNotFoundError(2, "No such file or directory")
        return stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "stat", failing)
    assert bytes_below(tmp_path) == 10
