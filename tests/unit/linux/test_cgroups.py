"""What is mounted, and which paths may name a group."""

from __future__ import annotations

import pytest

from bulkhead.linux.cgroup_mounts import own_paths, parse_mountinfo
from bulkhead.linux.cgroups import Cgroup, Hierarchies

V1 = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
36 31 0:32 / /elsewhere rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V2 = "41 31 0:38 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
SYSTEMD = V2 + "42 31 0:39 / /x rw,relatime - cgroup cgroup rw,name=systemd\n"


def test_hybrid_layouts() -> None:
    found = parse_mountinfo(V1)
    assert found.v1 == {
        "cpu": "/sys/fs/cgroup/cpu,cpuacct",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "memory": "/sys/fs/cgroup/memory",
        "name=systemd": "/sys/fs/cgroup/systemd",
    }
    assert found.unified == "/sys/fs/cgroup/unified"
    assert not found.is_v2
    assert len(found.roots()) == 4


def test_v2_layouts() -> None:
    assert parse_mountinfo(V2) == Hierarchies(v1={}, unified="/sys/fs/cgroup")
    assert parse_mountinfo(V2).is_v2 and parse_mountinfo(SYSTEMD).is_v2


def test_where_a_controllers_files_are() -> None:
    group = Cgroup("/a/b", parse_mountinfo(V1))
    assert group.directory("memory") == "/sys/fs/cgroup/memory/a/b"
    assert group.directory("pids") is None
    assert Cgroup("/a/b", parse_mountinfo(V2)).directory("pids") == "/sys/fs/cgroup/a/b"


@pytest.mark.parametrize("path", ["", "/", "../a", "/a/../b", "/./a", "/a//b", "/..", "/a\nb"])
def test_paths_that_could_leave_are_refused(path: str) -> None:
    with pytest.raises(ValueError):
        Cgroup(path, parse_mountinfo(V2))


PROC_SELF = """\
9:name=systemd:/user.slice
4:memory:/own/group
1:cpu,cpuacct:/
0::/../elsewhere
"""


def test_a_relative_path_starts_where_the_process_is() -> None:
    """A group in another cgroup namespace ("/..") cannot be named from here."""
    assert own_paths(PROC_SELF, parse_mountinfo(V1)) == {
        "/sys/fs/cgroup/systemd": "/user.slice",
        "/sys/fs/cgroup/memory": "/own/group",
        "/sys/fs/cgroup/cpu,cpuacct": "",
        "/sys/fs/cgroup/unified": "",
    }
