"""Word of members that are killed for want of memory; v2's where the machine has it."""

from __future__ import annotations

import os
import secrets
import select
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bulkhead.linux.cgroup_oom import oom_notices
from bulkhead.linux.cgroups import Cgroup
from tests.support.eventually import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
HOG = "read go; exec {python} -c 'x = bytearray(1 << 28); import signal; signal.pause()'"


@pytest.fixture
def group() -> Iterator[Cgroup]:
    made = Cgroup(f"/bh-test-{secrets.token_hex(4)}")
    made.create()
    made.apply({"memory": {"limit": 32 << 20, "swap": 32 << 20}})
    yield made
    made.remove()


def hog(group: Cgroup) -> None:
    """A process that wants more than there is; returns when it is dead."""
    command = ["sh", "-c", HOG.format(python=sys.executable)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        group.add(process.pid)
        process.communicate(b"go\n", timeout=60)
    assert process.returncode == -9


def is_readable(descriptor: int, seconds: float = 0) -> bool:
    return bool(select.select([descriptor], [], [], seconds)[0])


def test_every_kill_is_news_once(group: Cgroup) -> None:
    notices = oom_notices(group.path)
    try:
        assert notices.kills() == 0
        for count in (1, 2):
            hog(group)
            assert is_readable(notices.fileno(), 60)
            assert notices.kills() == count
        until(lambda: notices.kills() >= 0 and not is_readable(notices.fileno()))
    finally:
        notices.close()


def test_a_group_that_is_not_there_has_none(group: Cgroup) -> None:
    with pytest.raises(FileNotFoundError):
        oom_notices(f"{group.path}/none")
