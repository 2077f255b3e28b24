"""Images that are made once a machine: one process makes them, with no more than is asked for."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

import pytest

from tests.support import images


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(images, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def test_others_wait_for_who_makes_it(cache: Path) -> None:
    made: list[Path] = []

    def make(part: Path) -> None:
        with (cache / "thing.lock").open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert not part.exists() and not (cache / "thing").exists()
        part.mkdir()
        made.append(part)

    (cache / "thing.part").mkdir(parents=True)  # somebody was killed
    assert images._cached("thing", make) == images._cached("thing", make) == cache / "thing"
    assert len(made) == 1


@pytest.mark.parametrize("shop", [False, True])
def test_redis_alone_is_not_the_whole_shop(cache: Path, monkeypatch: pytest.MonkeyPatch, shop: bool) -> None:
    installed: list[str] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        installed.append(command[-1])
        return subprocess.CompletedProcess(command, 0, "", "")

    (cache / "debian/usr/sbin").mkdir(parents=True)
    if shop:
        (cache / "shop").mkdir()
    monkeypatch.setattr(subprocess, "run", run)
    assert images._redis_tree() == cache / ("shop" if shop else "redis")
    assert [("redis-server" in each, "postgresql" in each) for each in installed] == ([] if shop else [(True, False)])
