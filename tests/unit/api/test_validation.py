"""What is refused at create, by engine-api.md 3.1b: SDKs and scripts match the texts."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from bulkhead.api.ports.system import Host
from bulkhead.api.schema import validation
from bulkhead.api.schema.create import CreateBody, check_endpoints, is_empty, spec_of
from bulkhead.api.schema.hostconfig import HostConfig
from bulkhead.errors import InvalidArgument

MACHINE = Host(cpus=frozenset({0, 1}), cpus_text="0-1", memory_nodes=frozenset({0}), memory_nodes_text="0")


def body(config: dict[str, Any] | None = None, **host: Any) -> CreateBody:
    return msgspec.convert({"Image": "x", **(config or {}), "HostConfig": host}, CreateBody)


def check(made: CreateBody) -> None:
    validation.check(made, made.HostConfig or HostConfig(), MACHINE)
    spec_of(made, exists=lambda path: True)


HOST_TABLE = [
    ({"Memory": 1000}, "Minimum memory limit allowed is 6MB"),
    (
        {"Memory": 1 << 30, "MemorySwap": 1 << 20},
        "Minimum memoryswap limit should be larger than memory limit, see usage",
    ),
    ({"MemorySwap": 1 << 30}, "You should always set the Memory limit when using Memoryswap limit, see usage"),
    (
        {"Memory": 10 << 20, "MemoryReservation": 20 << 20},
        "Minimum memory limit can not be less than memory reservation limit, see usage",
    ),
    ({"MemorySwappiness": 101}, "Invalid value: 101, valid memory swappiness range is 0-100"),
    ({"NanoCpus": 10**9, "CpuPeriod": 1000}, "Conflicting options: Nano CPUs and CPU Period cannot both be set"),
    ({"NanoCpus": 3 * 10**9}, "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"),
    (
        {"CpuPeriod": 10},
        "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
    ),
    ({"CpuQuota": 10}, "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
    ({"CpusetCpus": "99"}, "Requested CPUs are not available - requested 99, available: 0-1"),
    ({"CpusetCpus": "a"}, "Invalid value a for cpuset cpus: "),
    ({"CpusetMems": "0,7"}, "Requested memory nodes are not available - requested 0,7, available: 0"),
    ({"BlkioWeight": 5}, "Range of blkio weight is from 10 to 1000"),
    ({"OomScoreAdj": 2000}, "Invalid value 2000, range for oom score adj is [-1000, 1000]"),
    ({"ShmSize": -1}, "SHM size can not be less than 0"),
    (
        {"AutoRemove": True, "RestartPolicy": {"Name": "always"}},
        "can't create 'AutoRemove' container with restart policy",
    ),
    ({"IpcMode": "foo"}, "invalid IPC mode: foo"),
    ({"PidMode": "foo"}, "invalid PID mode: foo"),
    ({"PidMode": "container:"}, "invalid PID mode: container:"),
    ({"UTSMode": "container:a"}, "invalid UTS mode: container:a"),
    (
        {"Annotations": {"": "a"}},
        "invalid Annotations: the empty string is not permitted as an annotation key",
    ),
    ({"RestartPolicy": {"Name": "foo"}}, "invalid restart policy 'foo'"),
    (
        {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}},
        "maximum retry count cannot be used with restart policy 'always'",
    ),
    (
        {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -3}},
        "maximum retry count cannot be negative",
    ),
    ({"LogConfig": {"Type": "foo"}}, 'error looking up logging plugin foo: plugin "foo" not found'),
    (
        {"LogConfig": {"Type": "json-file", "Config": {"foo": "1"}}},
        "unknown log opt 'foo' for json-file log driver",
    ),
    ({"CapAdd": ["FOO"]}, 'invalid CapAdd: unknown capability: "CAP_FOO"'),
    ({"CapDrop": ["cap_foo"]}, 'invalid CapDrop: unknown capability: "CAP_FOO"'),
    ({"ExtraHosts": ["x"]}, 'bad format for add-host: "x"'),
    ({"ExtraHosts": ["x:y"]}, 'invalid IP address in add-host: "y"'),
    ({"SecurityOpt": ["foo=bar"]}, 'invalid --security-opt 2: "foo=bar"'),
    ({"NetworkMode": "container:"}, "Invalid network mode: invalid container format container:<name|id>"),
    (
        {"NetworkMode": "container:a", "PortBindings": {"80/tcp": None}},
        "conflicting options: port publishing and the container type network mode",
    ),
    (
        {"NetworkMode": "host", "Links": ["a"]},
        "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
    ),
    ({"PortBindings": {"99999/tcp": None}}, 'invalid port specification: "99999/tcp"'),
    ({"PortBindings": {"80/foo": None}}, 'invalid port specification: "80/foo"'),
    ({"PortBindings": {"80/tcp": [{"HostPort": "x"}]}}, 'invalid port specification: "x"'),
]
CONFIG_TABLE: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"Env": ["=x"]}, {}, "invalid environment variable: =x"),
    ({"Env": [""]}, {}, "invalid environment variable: "),
    ({"StopSignal": "FOO"}, {}, "Invalid signal: FOO"),
    ({"Healthcheck": {"Interval": 10}}, {}, "Interval in Healthcheck cannot be less than 1ms"),
    ({"Healthcheck": {"Retries": -1}}, {}, "Retries in Healthcheck cannot be negative"),
    ({"WorkingDir": "rel"}, {}, "the working directory 'rel' is invalid, it needs to be an absolute path"),
    ({"Hostname": "h"}, {"UTSMode": "host"}, "conflicting options: hostname and the UTS mode"),
    ({"Hostname": "h"}, {"NetworkMode": "container:a"}, "conflicting options: hostname and the network mode"),
    ({"Hostname": "h" * 65}, {}, "invalid hostname: "),
    ({"Cmd": ["a\0b"]}, {}, "invalid command"),
]


@pytest.mark.parametrize(("host", "message"), HOST_TABLE)
def test_host_config_is_refused_in_dockers_words(host: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(message)):
        check(body(**host))


@pytest.mark.parametrize(("config", "host", "message"), CONFIG_TABLE)
def test_config_is_refused_in_dockers_words(config: dict[str, Any], host: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(message)):
        check(body(config, **host))


@pytest.mark.parametrize(
    "host",
    [
        {},
        {"Memory": 64 << 20, "MemorySwap": -1},
        {"MemorySwappiness": -1},
        {"CpusetCpus": "0-1", "CpuQuota": -1},
        {"NetworkMode": "nosuchnet"},
        {"NetworkMode": "container:unknown"},
        {"IpcMode": "shareable", "PidMode": "container:foo", "UTSMode": "host"},
        {"Dns": ["x"], "Sysctls": {"no.such": "1"}, "Ulimits": [{"Name": "foo", "Soft": 1, "Hard": 1}]},
        {"Runtime": "runc", "CapAdd": ["ALL"], "CapDrop": ["net_raw"]},
        {"ExtraHosts": ["a:1.2.3.4", "b:::1", "c:host-gateway"]},
        {"SecurityOpt": ["no-new-privileges", "seccomp=unconfined", "label=disable", "apparmor=x"]},
    ],
)
def test_what_docker_accepts_at_create_is_accepted(host: dict[str, Any]) -> None:
    check(body(**host))


@pytest.mark.parametrize("name", ["", "ab", "/ab", "a.b-c_d", "0a"])
def test_good_names(name: str) -> None:
    validation.check_name(name)


@pytest.mark.parametrize("name", ["a", "a b", "-a", "a/b", "ä1", "a\n", "ab\n"])
def test_bad_names_have_dockers_text(name: str) -> None:
    text = f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    with pytest.raises(InvalidArgument, match=re.escape(text)):
        validation.check_name(name)


@pytest.mark.parametrize(
    ("data", "empty"),
    [
        ({}, True),
        ({"HostConfig": {"Privileged": True}}, True),
        ({"Image": ""}, False),
        ({"Tty": False}, False),
    ],
)
def test_a_body_without_config_is_empty(data: dict[str, Any], empty: bool) -> None:
    assert is_empty(msgspec.convert(data, CreateBody)) is empty


def test_several_networks_need_version_1_44() -> None:
    made = msgspec.convert({"NetworkingConfig": {"EndpointsConfig": {"b": None, "a": {}}}}, CreateBody)
    check_endpoints(made, several=True)
    with pytest.raises(InvalidArgument, match=r"^Container cannot be connected to network endpoints: a, b$"):
        check_endpoints(made, several=False)
