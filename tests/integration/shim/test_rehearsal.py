"""The zygote's rehearsal plays through, and leaves nothing; shims that are at rest share what they can."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.shim.conftest import Launch
from tests.integration.shim.harness import proc, script, until

_PLAY = """
import gc, os, sys
from pathlib import Path
from bulkhead.shim import app
from bulkhead.shim.rehearsal import Play, Stage, nothing

def descriptors():
    gc.collect()
    return sorted(os.listdir("/proc/self/fd"), key=int)

scratch, cache = sys.argv[1:]
app.preload(Path(cache))
app.prepare_process()
before = descriptors()
stage = Stage(scratch)
stage.prepare()
seen = []
for _ in range(2):
    app.Shim(stage.launcher()).rehearse(Play(stage, lambda: seen.append(os.listdir("/proc/self/task"))), stage.identity)
stage.clear()
assert len(seen) == 2, seen
assert [len(each) for each in seen] == [1, 1], seen
assert descriptors() == before, (before, descriptors())
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("no child")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces")
def test_it_plays_through_and_leaves_nothing(tmp_path: Path) -> None:
    scratch = tmp_path / "rehearsal"
    done = subprocess.run(
        [sys.executable, "-c", _PLAY, str(scratch), str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "no child\n"), done.stderr
    assert not scratch.exists()


async def test_a_shim_at_rest_has_no_thread_and_goes_on(launch: Launch) -> None:
    async with launch(script("echo one; read line; echo $line")) as shim:
        assert "bulkhead-memory" in proc(shim.pid, "maps")
        assert (await shim.create(open_stdin=True)).failure is None
        assert (await shim.client.start()).failure is None
        await until(lambda: shim.log.exists() and shim.records() != [], timeout=30)
        # The one that wrote the log ends before memory is given back.
        await until(lambda: len(os.listdir(f"/proc/{shim.pid}/task")) == 1, timeout=30)  # noqa: PTH208
        stream = await shim.attach()
        stream.writer.write(b"two\n")
        assert (await shim.client.wait(timeout=20)).exit_code == 0
        stream.close()
        assert shim.logged() == "one\ntwo\n"


async def test_a_shim_at_rest_shares_what_it_has_in_common_with_all(launch: Launch) -> None:
    async with launch(script("read line; echo $line")) as shim:
        assert (await shim.create(open_stdin=True)).failure is None
        assert (await shim.client.start()).failure is None
        # The model takes a second or two; who is at rest before it is shares with it the next time.
        await until(lambda: "bulkhead-likeness" in proc(shim.pid, "maps"), timeout=30)
        stream = await shim.attach()
        stream.writer.write(b"two\n")
        assert (await shim.client.wait(timeout=20)).exit_code == 0
        stream.close()
        assert shim.logged() == "two\n"
