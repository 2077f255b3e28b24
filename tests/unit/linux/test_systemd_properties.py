"""What systemd is told of a container: units, limits, annotations."""

from __future__ import annotations

from typing import Any

import pytest

from bulkhead.linux.systemd_properties import annotated_properties, parse_scope, resource_properties, scope_properties


def table(properties: list[tuple[str, str, Any]]) -> dict[str, Any]:
    return {name: value for name, _, value in properties}


@pytest.mark.parametrize(
    ("path", "group"),
    [
        ("system.slice:docker:abc", "/system.slice/docker-abc.scope"),
        ("a-b-c.slice:p:n", "/a.slice/a-b.slice/a-b-c.slice/p-n.scope"),
        ("-.slice:p:n", "/p-n.scope"),
        (":p:n", "/system.slice/p-n.scope"),
        ("machine.slice::n", "/machine.slice/n.scope"),
        ("", "/system.slice/runc-id.scope"),
    ],
)
def test_a_path_names_slice_prefix_and_unit(path: str, group: str) -> None:
    assert parse_scope(path, "id").group == group


@pytest.mark.parametrize(
    "path",
    ["/docker/x", "a:b", "a:b:c:d", "noslice:p:n", "a--b.slice:p:n", "../x.slice:p:n", "x.slice:p:../n", "x.slice::"],
)
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(ValueError):
        parse_scope(path, "id")


def test_a_users_containers_are_in_the_users_slice() -> None:
    assert parse_scope("", "id", rootless=True).slice == "user.slice"


def test_a_scope_is_delegated_and_accounted() -> None:
    told = table(scope_properties(parse_scope("system.slice:docker:abc", "abc"), "abc", [7], v2=True))
    assert told["Slice"] == "system.slice" and told["PIDs"] == [7]
    assert told["Delegate"] and not told["DefaultDependencies"]
    assert told["IOAccounting"] and told["MemoryAccounting"] and told["CPUAccounting"] and told["TasksAccounting"]


NONE = (1 << 64) - 1


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"memory": {"limit": 100, "swap": 300}}, {"MemoryMax": 100, "MemorySwapMax": 200}),
        ({"memory": {"limit": -1}}, {"MemoryMax": NONE, "MemorySwapMax": NONE}),
        ({"memory": {"limit": 100, "reservation": 50}}, {"MemoryMax": 100, "MemoryLow": 50}),
        ({"cpu": {"shares": 1024}}, {"CPUWeight": 100}),
        ({"cpu": {"idle": 1, "shares": 1024}}, {"CPUWeight": 0}),
        (
            {"cpu": {"quota": 33333, "period": 100000}},
            {"CPUQuotaPeriodUSec": 100000, "CPUQuotaPerSecUSec": 340000},
        ),
        ({"cpu": {"quota": -1}}, {"CPUQuotaPerSecUSec": NONE}),
        ({"cpu": {"cpus": "0-2,9", "mems": "0"}}, {"AllowedCPUs": b"\x07\x02", "AllowedMemoryNodes": b"\x01"}),
        ({"pids": {"limit": 0}}, {"TasksMax": 1}),
        ({"pids": {"limit": -1}}, {"TasksMax": NONE}),
        (
            {"unified": {"memory.high": "5", "cpu.max": "max 50000", "memory.oom.group": "1"}},
            {"MemoryHigh": 5, "CPUQuotaPeriodUSec": 50000, "CPUQuotaPerSecUSec": NONE},
        ),
    ],
)
def test_limits_on_v2(resources: dict[str, Any], expected: dict[str, Any]) -> None:
    assert table(resource_properties(resources, v2=True)) == expected


def test_older_systemds_are_not_told_of_cpu_lists() -> None:
    assert resource_properties({"cpu": {"cpus": "0"}}, v2=True, version=243) == []


def test_limits_on_v1_with_devices() -> None:
    """On v1 a reload of systemd would open every device again if it did not know the rules."""
    rules = [{"allow": False}, *({"allow": True, "type": "c", "major": 1, "minor": n, "access": "rw"} for n in (3, 5))]
    rules += [{"allow": True, "type": "b", "access": "m"}, {"allow": True, "type": "c", "major": 136}]
    told = table(resource_properties({"memory": {"limit": 5}, "cpu": {"shares": 7}, "devices": rules}, v2=False))
    assert (told["MemoryLimit"], told["CPUShares"], told["DevicePolicy"]) == (5, 7, "strict")
    assert told["DeviceAllow"] == [
        ("/dev/char/1:3", "rw"),
        ("/dev/char/1:5", "rw"),
        ("block-*", "m"),
        ("char-136", "rwm"),
    ]


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("CollectMode", "'inactive-or-failed'", ("CollectMode", "s", "inactive-or-failed")),
        ("TimeoutStopUSec", "uint64 123456789", ("TimeoutStopUSec", "t", 123456789)),
        ("TimeoutStopSec", "1.5", ("TimeoutStopUSec", "t", 1500000)),
        ("SendSIGHUP", "true", ("SendSIGHUP", "b", True)),
        ("After", "['a.service', \"b,c\"]", ("After", "as", ["a.service", "b,c"])),
    ],
)
def test_annotations_become_properties(key: str, text: str, expected: tuple[str, str, Any]) -> None:
    annotations = {f"org.systemd.property.{key}": text, "other": "x"}
    assert annotated_properties(annotations) == [expected]


@pytest.mark.parametrize(("key", "text"), [("A b", "1"), ("X", "true"), ("Memory", "uint64 x"), ("After", "['a', 1]")])
def test_annotations_that_cannot_be_read_are_errors(key: str, text: str) -> None:
    with pytest.raises(ValueError):
        annotated_properties({f"org.systemd.property.{key}": text})
