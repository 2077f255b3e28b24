"""Namespaces of others, and the cgroup tree (cve-battery C29, H31)."""

from __future__ import annotations

import threading

import pytest

from tests.security.engine.conftest import Attack
from tests.support.containers import namespace

ROUNDS = 25
# The kernel's answer to an open for writing, and to a new group; nothing is ever written.
TRY = (
    'find /sys/fs/cgroup -type f | while read f; do (: > "$f") 2>/dev/null && echo "$f"; done; '
    'find /sys/fs/cgroup -type d | while read d; do mkdir "$d/mine" 2>/dev/null && echo "$d" && rmdir "$d/mine"; done; '
    "echo looked at $(find /sys/fs/cgroup -type f | wc -l)"
)


@pytest.fixture
def armed(attack: Attack) -> Attack:
    assert attack.pulled().status == 200
    return attack


# ---- C29 ----


@pytest.mark.parametrize("mode", ["host", "private"])
def test_no_file_of_a_cgroup_can_be_written(armed: Attack, mode: str) -> None:
    found = armed.run("sh", "-c", TRY, host={"CgroupnsMode": mode}).text.splitlines()
    assert found[:-1] == []
    assert int(found[-1].split()[-1]) > 20


def test_a_privileged_container_could(armed: Attack) -> None:
    """The control: the same look finds files and directories where they are writable."""
    found = armed.run("sh", "-c", TRY, host={"Privileged": True}).text.splitlines()
    assert any(line.endswith("/cgroup.procs") for line in found)


# ---- H31 ----


@pytest.mark.parametrize("kind", ["NetworkMode", "IpcMode", "PidMode"])
def test_the_namespace_of_who_does_not_run_is_not_joined(armed: Attack, kind: str) -> None:
    """Its pid may be anybody's by now."""
    target = armed.start("sleep", "600", host={"IpcMode": "shareable"})
    assert armed.run("true", host={kind: f"container:{target}"}).status == 0
    assert armed.engine.api("POST", f"/containers/{target}/kill").status == 204
    assert armed.engine.api("POST", f"/containers/{target}/wait").status == 200
    refused = armed.run("true", host={kind: f"container:{target}"})
    assert not refused.ran
    assert refused.status in (400, 409)
    assert target in refused.text


def test_whoever_joins_a_restarting_container_gets_its_namespace_or_none(armed: Attack) -> None:
    """While the target is killed and started over and over: never the host's network, and never another's."""
    target, hosts = armed.start("sleep", "600"), namespace("self", "net")
    joined = list[str]()
    for number in range(ROUNDS):
        before = namespace(armed.pid(target), "net")
        # Each round a little later in the life of the joining one.
        restart = threading.Timer(number * 0.002, armed.engine.api, ("POST", f"/containers/{target}/restart?t=0"))
        restart.start()
        outcome = armed.run("busybox", "readlink", "/proc/self/ns/net", host={"NetworkMode": f"container:{target}"})
        restart.join()
        if outcome.ran:
            joined.append(outcome.text.strip())
            assert joined[-1] in (before, namespace(armed.pid(target), "net"))
        else:
            assert outcome.status == 409, outcome
    assert joined, "nobody joined"
    assert hosts not in joined


def test_the_hosts_namespaces_only_when_asked_for(armed: Attack) -> None:
    """Each mode by itself takes the host's namespace of its kind and of no other."""
    modes = {"net": "NetworkMode", "ipc": "IpcMode", "pid": "PidMode", "uts": "UTSMode"}
    for kind, mode in modes.items():
        pid = armed.pid(armed.start("sleep", "600", host={mode: "host"}))
        shared = {each for each in (*modes, "mnt", "user") if namespace(pid, each) == namespace("self", each)}
        assert shared == {kind, "user"}
