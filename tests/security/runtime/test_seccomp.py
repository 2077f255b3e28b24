"""The filter as the kernel holds it, and as a program feels it (cve-battery H05-H08)."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
from pathlib import Path

import pytest

from bulkhead.errors import LaunchFailed
from bulkhead.linux import caps, seccomp, syscalls
from bulkhead.runtime import defaults
from tests.support.containers import Box

pytestmark = pytest.mark.skipif(not seccomp.supported(), reason="no system call table for this machine")

NATIVE = syscalls.numbers("x86_64")
I386 = syscalls.numbers("i386")
HIGH = 1 << 32


def outcome(box: Box, *words: object, gate: str = "call") -> str:
    result = int(box.run("probe", gate, *map(str, words)).output)
    return errno.errorcode[-result] if result < 0 else "ok"


def test_the_kernel_holds_exactly_the_compiled_filter(armed: Box, probe: Path) -> None:
    task, config = armed.start("sleep", "60")
    done = subprocess.run([probe, "filter", str(task.pid)], capture_output=True, text=True, check=True)
    assert bytes.fromhex(done.stdout) == seccomp.compile_profile(config["linux"]["seccomp"]).code
    armed.kill(task)


REFUSED = {
    "AF_ALG": (NATIVE["socket"], 38, 5, 0),
    "AF_VSOCK": (NATIVE["socket"], 40, 1, 0),
    "AF_ALG with high bits": (NATIVE["socket"], 38 | HIGH, 5, 0),
    "AF_VSOCK with high bits": (NATIVE["socket"], 40 | HIGH, 1, 0),
    "personality": (NATIVE["personality"], 0x1000000),
    "personality with high bits": (NATIVE["personality"], 0x1000000 | HIGH),
    "io_uring_setup": (NATIVE["io_uring_setup"], 1, 0),
    "userfaultfd": (NATIVE["userfaultfd"], 0),
    "keyctl": (NATIVE["keyctl"], 0, -3, 0),
    "add_key": (NATIVE["add_key"], 0, 0, 0, 0, 0),
    "request_key": (NATIVE["request_key"], 0, 0, 0, 0),
    "bpf": (NATIVE["bpf"], 0, 0, 0),
    "fsopen": (NATIVE["fsopen"], 0, 0),
    "mount": (NATIVE["mount"], 0, 0, 0, 0, 0),
    "pivot_root": (NATIVE["pivot_root"], 0, 0),
    "kexec_load": (NATIVE["kexec_load"], 0, 0, 0, 0),
    "setns": (NATIVE["setns"], 0, 0),
    "unshare newuser": (NATIVE["unshare"], 0x10000000),
    "clone newuser": (NATIVE["clone"], 0x10000000 | 17, 0, 0, 0, 0),
    "clone newnet with high bits": (NATIVE["clone"], 0x40000000 | 17 | HIGH, 0, 0, 0, 0),
    "perf_event_open": (NATIVE["perf_event_open"], 0, 0, 0, 0, 0),
    "open_by_handle_at": (NATIVE["open_by_handle_at"], 0, 0, 0),
    "syslog": (NATIVE["syslog"], 3, 0, 0),
    "reboot": (NATIVE["reboot"], 0, 0, 0, 0),
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_refused_calls(armed: Box, call: tuple[int, ...]) -> None:
    """By the filter's EPERM: without it many would answer EFAULT, EINVAL or EAFNOSUPPORT."""
    assert outcome(armed, *call) == "EPERM"


@pytest.mark.parametrize("number", [NATIVE["clone3"], 467, 468, 1000, 0x3FFFFFFF])
def test_calls_that_seem_missing(armed: Box, number: int) -> None:
    assert outcome(armed, number, 0, 0) == "ENOSYS"


@pytest.mark.parametrize("number", [NATIVE["io_uring_setup"], NATIVE["mount"]])
def test_the_x32_way_is_closed_too(armed: Box, number: int) -> None:
    assert outcome(armed, number | syscalls.X32_BIT, 0, 0) in ("EPERM", "ENOSYS")


@pytest.mark.parametrize(
    ("name", "expected"), [("mount", "EPERM"), ("keyctl", "EPERM"), ("clone3", "ENOSYS"), ("bpf", "EPERM")]
)
def test_the_i386_way_is_closed_too(armed: Box, name: str, expected: str) -> None:
    try:
        found = outcome(armed, I386[name], 0, 0, 0, gate="call32")
    except ValueError:
        pytest.skip("no i386 gate on this kernel")
    assert found == expected


@pytest.mark.parametrize(
    "call", [(NATIVE["getpid"],), (NATIVE["socket"], 1, 1, 0), (NATIVE["socket"], 2, 1, 0), (NATIVE["personality"], 0)]
)
def test_what_programs_need_is_allowed(armed: Box, call: tuple[int, ...]) -> None:
    assert outcome(armed, *call) == "ok"


def test_exec_has_the_same_filter(armed: Box) -> None:
    task, config = armed.start("sleep", "60")
    for call in ("AF_ALG", "keyctl", "unshare newuser"):
        done = armed.exec(task, config, "probe", "call", *map(str, REFUSED[call]))
        assert int(done.output) == -errno.EPERM
    armed.kill(task)


def test_keyrings_are_not_shared(armed: Box) -> None:
    """H08: with the filter off each container and each exec has a session keyring of its own."""
    ask = ("probe", "call", str(NATIVE["keyctl"]), "0", "-3", "0")
    found = []
    for _ in range(2):
        config = armed.config("sleep", "60")
        del config["linux"]["seccomp"]
        task = armed.create(config)
        task.start()
        found += [armed.exec(task, config, *ask).output for _ in range(2)]
        armed.kill(task)
    assert all(int(serial) > 0 for serial in found)
    assert len(set(found)) == 4


def test_setuid_programs_gain_nothing_under_no_new_privileges(armed: Box) -> None:
    (armed.image / "bin" / "probe").chmod(0o4755)
    user = {"uid": 1000, "gid": 1000}
    assert armed.run("probe", "ids", user=user).output == "1000 0\n"
    assert armed.run("probe", "ids", user=user, noNewPrivileges=True).output == "1000 1000\n"


def test_file_capabilities_give_another_user_at_most_the_bounding_set(armed: Box) -> None:
    """H01: file capabilities of an image never reach beyond the bounding set."""
    wanted = (1 << 32) - 1
    data = struct.pack("<IIIII", 0x02000001, wanted, 0, 0x1FF, 0)  # VFS_CAP_REVISION_2, effective
    os.setxattr(armed.image / "bin" / "busybox", "security.capability", data)
    user = {"uid": 1000, "gid": 1000}
    with pytest.raises(LaunchFailed) as caught:  # the kernel refuses an effective set that cannot be granted
        armed.run("grep", "CapEff", "/proc/self/status", user=user)
    assert (caught.value.step, caught.value.errno) == ("exec", errno.EPERM)
    within = caps.mask(defaults.DEFAULT_CAPABILITIES)
    data = struct.pack("<IIIII", 0x02000001, within, 0, 0, 0)
    os.setxattr(armed.image / "bin" / "busybox", "security.capability", data)
    output = armed.run("grep", "CapEff", "/proc/self/status", user=user).output
    assert int(output.split()[1], 16) == within
