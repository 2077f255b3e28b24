"""The leak check is itself examined: each kind of thing that it must see, it sees."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkhead.ctl import purging, remains
from bulkhead.model.instance import Instance
from tests.support import leaks

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes cgroups, mounts and interfaces: needs root")


@pytest.fixture
def instance() -> Iterator[Instance]:
    with tempfile.TemporaryDirectory(prefix="bh-") as base:
        instance = Instance(run=Path(base, "run"), data=Path(base, "data"), bridge=f"lk{os.getpid()}")
        (instance.run / "containers").mkdir(parents=True)
        yield instance
        purging.kill_all(instance)
        list(purging.remove_network(instance))


def left(instance: Instance, before: leaks.Facts) -> list[str]:
    return leaks.left_after(instance, before, seconds=0)


def test_nothing_is_nothing(instance: Instance) -> None:
    assert left(instance, leaks.facts(instance)) == []


def test_a_directory(instance: Instance) -> None:
    before = leaks.facts(instance)
    (instance.run / "containers" / "0123456789ab").mkdir()
    assert left(instance, before) == [f"directory {instance.run}/containers/0123456789ab"]


def test_a_mount(instance: Instance) -> None:
    before = leaks.facts(instance)
    target = instance.run / "mnt"
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", target], check=True)
    try:
        assert left(instance, before) == [f"mount {target}"]
    finally:
        subprocess.run(["umount", target], check=True)


def test_a_cgroup(instance: Instance) -> None:
    before = leaks.facts(instance)
    for root in remains.hierarchies():
        try:
            (root / instance.label / "x").mkdir(parents=True)
        except OSError:
            continue
        assert left(instance, before) == [f"cgroup {root / instance.label}/x"]
        return
    pytest.skip("no cgroup hierarchy that can be written")


def test_a_veth(instance: Instance) -> None:
    subprocess.run(["ip", "link", "add", instance.bridge, "type", "bridge"], check=True)
    before = leaks.facts(instance)
    host, peer = f"{instance.bridge}h", f"{instance.bridge}p"
    subprocess.run(["ip", "link", "add", host, "type", "veth", "peer", "name", peer], check=True)
    subprocess.run(["ip", "link", "set", host, "master", instance.bridge], check=True)
    assert left(instance, before) == [f"veth {host}"]


def test_an_nft_element(instance: Instance) -> None:
    nft = shutil.which("nft")
    if nft is None:
        pytest.skip("no nft on this machine")
    table = f"inet {instance.nft_table}"
    rules = f"add table {table}; add map {table} ports {{ type inet_service : inet_service; }}"
    subprocess.run([nft, rules], check=True)
    before = leaks.facts(instance)
    subprocess.run([nft, f"add element {table} ports {{ 80 : 8080 }}"], check=True)
    assert len(left(instance, before)) == 1


def test_a_shim(instance: Instance, tmp_path: Path) -> None:
    """A process with a shim's title that holds a file of this installation; a stranger's is not ours."""
    before = leaks.facts(instance)
    named = tmp_path / "bulkhead-shim: "
    named.symlink_to(shutil.which("sleep") or "")
    command = ["bash", "-c", 'exec -a "bulkhead-shim: 0123456789ab" "$0" 600', str(named)]
    with (instance.run / "held").open("w") as held:
        ours = subprocess.Popen(command, stdout=held)
        strange = subprocess.Popen(command)
    try:
        wait_for_title(ours.pid)
        wait_for_title(strange.pid)
        assert left(instance, before) == [f"process {ours.pid} bulkhead-shim: 0123456789ab 600"]
    finally:
        for process in (ours, strange):
            process.kill()
            process.wait()


def wait_for_title(pid: int) -> None:
    """The title appears with bash's exec, a moment after the fork."""
    deadline = time.monotonic() + 10
    while not Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"bulkhead-shim"):
        assert time.monotonic() < deadline


def test_descriptors() -> None:
    before = leaks.Facts(things=frozenset(), descriptors={"api": Counter(pidfd=1, socket=3)})
    after = leaks.Facts(things=frozenset(), descriptors={"api": Counter(pidfd=2, socket=5)})
    assert leaks.compare(before, after) == ["api holds 2 descriptors of kind pidfd, 1 would be right"]
