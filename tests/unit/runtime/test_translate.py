"""What a config becomes, where no process is needed to see it."""

from __future__ import annotations

from typing import Any

import pytest

from bulkhead.runtime.translate import group_owner

MAPS = [{"containerID": 5, "hostID": 7, "size": 1}, {"containerID": 0, "hostID": 1000, "size": 5}]


def config(*kinds: str, options: tuple[str, ...] = ("rw",)) -> dict[str, Any]:
    return {
        "mounts": [{"destination": "/sys/fs/cgroup", "type": "cgroup", "options": list(options)}],
        "linux": {"namespaces": [{"type": kind} for kind in kinds], "uidMappings": MAPS, "gidMappings": MAPS},
    }


def test_a_root_of_its_own_that_may_write_gets_the_group() -> None:
    assert group_owner(config("user", "cgroup")) == (1000, 1000)


@pytest.mark.parametrize(
    "other",
    [config("user"), config("cgroup"), config("user", "cgroup", options=("ro", "nosuid")), {"linux": {}}, {}],
)
def test_nobody_else_does(other: dict[str, Any]) -> None:
    assert group_owner(other) is None
