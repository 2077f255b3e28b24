"""A launch worked out beforehand: the same launch, or none at all."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.linux.cgroups import Cgroup, hierarchies
from bulkhead.nsexec import plan as layout
from bulkhead.nsexec.plan import Encoded, Flag, Plan
from bulkhead.runtime import defaults, planned, translate
from bulkhead.runtime.rootfs import OverlayRootfs

ROOTFS = OverlayRootfs(lower=("/",), upper="/tmp", work="/tmp", volatile=False)


def config(**linux: Any) -> dict[str, Any]:
    return {
        "ociVersion": "1.2.0",
        "process": {"args": ["true"], "cwd": "/", "terminal": False, "oomScoreAdj": 0},
        "root": {"path": "rootfs"},
        "mounts": defaults.default_mounts(),
        "linux": {
            "namespaces": [{"type": kind} for kind in ("network", "pid", "ipc", "uts", "mount")],
            "cgroupsPath": "/planned/abc",
            "resources": {"devices": defaults.default_devices_rules()},
            "seccomp": defaults.default_seccomp(defaults.DEFAULT_CAPABILITIES),
            **linux,
        },
    }


def test_it_is_the_launch_that_the_launcher_itself_would_have_worked_out() -> None:
    wanted = config()
    found = planned.container("abc", wanted, ROOTFS)
    assert found is not None
    again = planned.unpack(found.pack())
    assert again == found
    plan = translate.container_plan(wanted, ROOTFS, Cgroup("/planned/abc"), hierarchies())
    assert again.plan.data == plan.encode()
    assert (again.plan.flags, again.clone_flags) == (plan.flags, translate.clone_flags(wanted))
    assert (again.cgroup, again.resources) == ("/planned/abc", wanted["linux"]["resources"])


def test_a_further_process_is_worked_out_with_the_confinement_of_its_container() -> None:
    process = {"args": ["id"], "cwd": "/", "terminal": True, "oomScoreAdj": 0}
    found = planned.further_process(config(), process)
    assert found is not None
    assert found.terminal
    assert found.plan.data == translate.exec_plan(config(), process).encode()


def test_those_that_differ_in_their_command_alone_are_each_read_as_packed() -> None:
    processes = ({"args": args, "cwd": "/", "terminal": False, "oomScoreAdj": 0} for args in (["a"], ["b", "c"], ["a"]))
    found = [planned.further_process(config(), process) for process in processes]
    assert [planned.unpack(each.pack()) for each in found if each is not None] == found


@pytest.mark.parametrize("arguments", [["id"], ["sh", "-c", "echo \u00e9 $0", ""], ["x" * 100_000] * 3, ["\udcff"]])
def test_with_another_command_it_is_what_that_would_have_come_to(arguments: list[str]) -> None:
    process = {"args": ["anything", "else"], "cwd": "/", "terminal": False, "oomScoreAdj": 0}
    found, other = (planned.further_process(config(), {**process, "args": args}) for args in (["a", "b"], arguments))
    assert found is not None
    assert other is not None
    assert planned.with_arguments(found.pack(), arguments) == other.pack()


def test_no_command_that_the_stage_would_not_take() -> None:
    found = planned.further_process(config(), {"args": ["a"], "cwd": "/", "terminal": False, "oomScoreAdj": 0})
    assert found is not None
    for arguments in (["a\0b"], ["x" * layout.MAX_BYTES]):
        with pytest.raises(InvalidArgument):
            planned.with_arguments(found.pack(), arguments)
    for broken in (b"", b"\1", found.pack()[:-4000], found.pack()[:20]):
        with pytest.raises(InvalidArgument):
            planned.with_arguments(broken, ["a"])


@pytest.mark.parametrize(
    "linux",
    [
        {"netDevices": {"eth7": {}}},
        {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network", "path": "/proc/1/ns/net"}]},
        {
            "namespaces": [{"type": "user"}, {"type": "mount"}],
            "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
        },
    ],
)
def test_who_must_be_attended_is_left_to_the_launcher(linux: dict[str, Any]) -> None:
    """Descriptors to open, maps to write, devices to move: nobody but the launcher can."""
    assert planned.container("abc", config(**linux), ROOTFS) is None


def test_a_further_process_needs_nobody_to_map_its_users() -> None:
    """It joins the user namespace, which is mapped since the container was made."""
    maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    namespaces = [{"type": "user"}, {"type": "mount"}]
    mapped = config(namespaces=namespaces, uidMappings=maps, gidMappings=maps)
    found = planned.further_process(mapped, {"args": ["id"], "cwd": "/"})
    assert found is not None
    assert found.plan.flags & Flag.BECOME_ROOT


def test_hooks_are_left_to_the_launcher() -> None:
    hooked = {**config(), "hooks": {"prestart": [{"path": "/bin/true"}]}}
    assert planned.container("abc", hooked, ROOTFS) is None


def test_what_is_refused_later_is_refused_now() -> None:
    with pytest.raises(InvalidArgument):
        planned.container("abc", {**config(), "process": {"args": [], "cwd": "/"}}, ROOTFS)


def test_what_another_version_has_worked_out_is_worked_out_again() -> None:
    """A manager is upgraded while shims of the former version live on."""
    found = planned.container("abc", config(), ROOTFS)
    assert found is not None
    packed = found.pack()
    length = int.from_bytes(packed[:4], "little")
    head = json.loads(packed[4 : 4 + length])
    for version in ([head["version"][0], layout.VERSION + 1], [head["version"][0] + 1, layout.VERSION]):
        changed = json.dumps({**head, "version": version}).encode()
        assert planned.unpack(len(changed).to_bytes(4, "little") + changed + packed[4 + length :]) is None
    assert planned.unpack(b"") is None


@pytest.mark.parametrize("damaged", [b"x", b"\xff\xff\xff\xff", b"\x02\x00\x00\x00{}", b"\x02\x00\x00\x00[]"])
def test_what_cannot_be_read_is_refused(damaged: bytes) -> None:
    with pytest.raises(InvalidArgument, match="planned launch"):
        planned.unpack(damaged)


def test_flags_added_to_an_encoded_plan_are_those_of_a_plan_made_with_them() -> None:
    more = Flag.NULL_STDIN | Flag.NULL_STDERR
    plain = Plan(flags=Flag.EXEC, argv=("a",), env=(), cwd="/")
    flagged = Plan(flags=Flag.EXEC | more, argv=("a",), env=(), cwd="/").encode()
    assert plain.encode(more) == flagged
    assert Encoded(data=plain.encode(), flags=plain.flags).encode(more) == flagged
