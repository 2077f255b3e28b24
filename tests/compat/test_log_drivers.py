"""Log drivers as the docker CLI shows them; the same on dockerd."""

from __future__ import annotations

import json
import socket

import pytest
from docker import DockerClient

from tests.compat.conftest import Target


@pytest.fixture(autouse=True)
def real(target: Target) -> None:
    if target.kind == "fake":
        pytest.skip("the fake manager logs nothing")


SAYS = ("busybox", "sh", "-c", "echo out; echo err >&2")


@pytest.mark.parametrize(
    ("driver", "kept"), [("json-file", "a\ufffd\ufffdb\n\ufffd".encode()), ("local", b"a\xff\xfeb\n\xff")]
)
def test_what_is_no_text(client: DockerClient, target: Target, driver: str, kept: bytes) -> None:
    says = ["busybox", "printf", r"a\377\376b\n\377"]
    target.ok("run", "-d", "--name", "lg", "--log-driver", driver, *says)
    target.ok("wait", "lg")
    assert client.containers.get("lg").logs() == kept


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_logs_of_a_file(target: Target, driver: str) -> None:
    target.ok("run", "--name", "lg", "--log-driver", driver, *SAYS)
    done = target.docker("logs", "lg")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert target.ok("inspect", "-f", "{{.HostConfig.LogConfig.Type}}", "lg") == driver
    assert (target.ok("inspect", "-f", "{{.LogPath}}", "lg") != "") == (driver == "json-file")
    assert target.docker("logs", "--tail", "1", "-t", "lg").returncode == 0


def test_none_cannot_be_read(target: Target) -> None:
    target.ok("run", "--name", "lg", "--log-driver", "none", *SAYS)
    assert "configured logging driver does not support reading" in target.docker("logs", "lg").stderr


def test_syslog_is_sent_and_read_from_the_cache(target: Target) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        address = f"syslog-address=udp://127.0.0.1:{server.getsockname()[1]}"
        options = ["--log-opt", address, "--log-opt", "syslog-format=rfc5424", "--log-opt", "tag={{.Name}}"]
        target.ok("run", "--name", "lg", "--log-driver", "syslog", *options, *SAYS)
        received = sorted(server.recv(65536).decode() for _ in range(2))
    assert received[0].startswith("<27>1 ") and received[0].endswith(" - err\n")
    assert received[1].startswith("<30>1 ") and " lg " in received[1]
    done = target.docker("logs", "lg")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_attributes_are_details(target: Target) -> None:
    options = [
        "--log-opt",
        "tag={{.Name}}",
        "--log-opt",
        "labels=a",
        "--label",
        "a=1",
        "--log-opt",
        "env=E",
        "-e",
        "E=2",
    ]
    target.ok("run", "--name", "lg", *options, "busybox", "echo", "hi")
    assert target.ok("logs", "--details", "lg") == "E=2,a=1,tag=lg hi"


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--log-opt", "nosuch=1"], "unknown log opt 'nosuch' for json-file log driver"),
        (["--log-opt", "mode=x"], "logger: logging mode not supported: x"),
        (["--log-opt", "max-buffer-size=1m"], "max-buffer-size option is only supported with 'mode=non-blocking'"),
        (["--log-driver", "syslog", "--log-opt", "syslog-facility=x"], "invalid syslog facility"),
        (
            ["--log-driver", "syslog", "--log-opt", "syslog-address=x"],
            "syslog-address should be in form proto://address",
        ),
    ],
)
def test_bad_options_are_refused_at_create(target: Target, flags: list[str], text: str) -> None:
    done = target.docker("create", *flags, "busybox")
    assert done.returncode != 0
    assert text in done.stderr


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--log-opt", "max-size=x"], "failed to initialize logging driver: invalid size: 'x'"),
        (["--log-opt", "max-file=0"], "max-file cannot be less than 1"),
        (["--log-driver", "journald"], "failed to initialize logging driver: journald is not enabled on this host"),
        (
            ["--log-driver", "syslog", "--log-opt", "syslog-address=tcp://127.0.0.1:1"],
            "failed to initialize logging driver",
        ),
    ],
)
def test_bad_options_that_fail_the_start(target: Target, flags: list[str], text: str) -> None:
    done = target.docker("run", *flags, "busybox", "true")
    assert done.returncode != 0
    assert text in done.stderr


def test_rotated_and_packed_files_are_read(target: Target) -> None:
    options = ["--log-opt", "max-size=10k", "--log-opt", "max-file=5", "--log-opt", "compress=true"]
    script = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i; done"
    target.ok("run", "--name", "lg", *options, "busybox", "sh", "-c", script)
    lines = target.ok("logs", "lg").splitlines()
    assert lines[-1] == "line 300"
    assert lines == [f"line {number}" for number in range(301 - len(lines), 301)]
    assert target.ok("logs", "--tail", "150", "lg").splitlines() == lines[-150:]
    assert json.loads(target.ok("inspect", "-f", "{{json .HostConfig.LogConfig.Config}}", "lg"))["compress"] == "true"
