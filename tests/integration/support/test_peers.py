"""What is taken away after other people's engines."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from bulkhead.linux.cgroups import Cgroup
from tests.support.peers import remove_everywhere

ROOT = Path("/sys/fs/cgroup")


@pytest.mark.root
@pytest.mark.skipif(
    os.geteuid() != 0 or not ROOT.is_dir() or (ROOT / "cgroup.procs").exists(), reason="needs root and cgroup v1"
)
def test_a_group_goes_where_no_controller_is_mounted_too() -> None:
    group, controller = f"/bh-peer-{secrets.token_hex(3)}", f"bhtest{secrets.token_hex(3)}"
    Cgroup(f"{group}/below").create()
    (ROOT / controller / group[1:] / "conmon").mkdir(parents=True)
    (ROOT / controller / "others").mkdir()
    remove_everywhere(group)
    assert not list(ROOT.glob(f"*{group}"))
    remove_everywhere("/others")
    assert not (ROOT / controller).exists()
