from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bulkhead.errors import NotFound, Unavailable
from bulkhead.linux import process
from bulkhead.manager.bundles import read_json
from bulkhead.runtime import launch


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Whatever this process opens is refused with EMFILE."""
    free = os.open("/", os.O_RDONLY)
    os.close(free)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_process_that_is_gone_or_another() -> None:
    child = subprocess.Popen(["true"])
    started = process.start_time(child.pid)
    child.wait()
    assert started is not None
    assert process.open_verified(child.pid, started) is None
    assert process.open_verified(os.getpid(), started + 1000) is None
    with pytest.raises(NotFound):
        launch.adopt(container_id="x", pid=child.pid, start_time=started, config={})


def test_what_a_process_and_its_children_have_had_of_the_cpu() -> None:
    pid = os.getpid()
    before = process.cpu_ticks(pid)
    while process.cpu_ticks(pid) <= before:
        pass
    before = process.cpu_ticks(pid)
    subprocess.run(["sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"], check=True)
    assert process.cpu_ticks(pid) > before + 1
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert process.cpu_ticks(gone.pid) == 0


def test_nobody_is_dead_for_want_of_descriptors(tmp_path: Path) -> None:
    started = process.start_time(os.getpid())
    assert started is not None
    (tmp_path / "record").write_text("{}")
    with no_descriptors():
        with pytest.raises(OSError, match="Too many open files"):
            process.open_verified(os.getpid(), started)
        with pytest.raises(OSError, match="Too many open files"):
            process.start_time(os.getpid())
        with pytest.raises(Unavailable, match="cannot adopt container x: Too many open files"):
            launch.adopt(container_id="x", pid=os.getpid(), start_time=started, config={})
        with pytest.raises(Unavailable, match="Too many open files"):
            read_json(tmp_path / "record")
    assert read_json(tmp_path / "record") == {}
    assert read_json(tmp_path / "none") is None
