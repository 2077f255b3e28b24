"""docker-py, which testcontainers, compose v1 and Ansible build on. It reads error texts and raw sockets."""

from __future__ import annotations

import socket
import struct
import time
from typing import Any

import pytest
from docker import DockerClient
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound

from tests.compat.conftest import Target

FOREVER = ["sh", "-c", "trap 'exit 0' TERM; while :; do echo tick; sleep 0.05; done"]


@pytest.fixture
def running(client: DockerClient) -> Any:
    made = client.containers.run("busybox", FOREVER, detach=True, name="rr", labels={"a": "b"}, environment={"K": "v"})
    lines = made.logs(stream=True, follow=True)
    assert next(lines) == b"tick\n"  # from now on it hears signals
    lines.close()
    return made


def test_run_returns_output_and_raises_on_failure(client: DockerClient) -> None:
    assert client.containers.run("busybox", ["echo", "hi"], remove=True) == b"hi\n"
    with pytest.raises(ContainerError) as failed:
        client.containers.run("busybox", ["sh", "-c", "echo oops >&2; exit 3"], remove=True)
    assert (failed.value.exit_status, failed.value.stderr) == (3, b"oops\n")


def test_a_missing_image_is_told_from_a_missing_container(client: DockerClient) -> None:
    with pytest.raises(ImageNotFound):
        client.images.get("nosuch")
    with pytest.raises(NotFound) as missing:
        client.containers.get("nosuch")
    assert missing.value.explanation == "No such container: nosuch"
    with pytest.raises(APIError):
        client.containers.create("busybox", "true", name="!")


def test_attributes(client: DockerClient, running: Any) -> None:
    assert (running.name, running.labels) == ("rr", {"a": "b"})
    running.reload()
    assert running.status == "running"
    assert [each.name for each in client.containers.list(filters={"label": "a=b"})] == ["rr"]
    assert client.containers.list(filters={"label": ["a=c"]}) == []
    assert running.ports == {}
    assert "busybox:latest" in running.image.tags  # among those that tests before this one may have given it


def test_logs_as_bytes_and_as_stream(running: Any) -> None:
    lines = running.logs(stream=True, follow=True)
    assert next(lines) == b"tick\n"
    lines.close()
    assert running.logs(tail=1) == b"tick\n"
    assert running.logs(timestamps=True, tail=1).endswith(b"Z tick\n")
    assert running.logs(until=1) == b""
    assert running.logs(since=time.time() + 1000) == b""


def test_exec_run(running: Any) -> None:
    result = running.exec_run(["sh", "-c", "echo $K; echo err >&2"], demux=True)
    assert (result.exit_code, result.output) == (0, (b"v\n", b"err\n"))
    assert running.exec_run(["sh", "-c", "exit 5"]).exit_code == 5
    assert b"".join(running.exec_run(["echo", "a"], stream=True).output) == b"a\n"
    assert running.exec_run(["echo", "a"], tty=True).output == b"a\r\n"


def exactly(stream: socket.socket, size: int) -> bytes:
    """So many bytes, in however many pieces they come."""
    said = b""
    while len(said) < size:
        said += (piece := stream.recv(size - len(said)))
        assert piece, f"closed after {said!r}"
    return said


def ticks(said: bytes) -> bool:
    """Nothing else: on a busy machine several are carried at once."""
    return set(said.splitlines(keepends=True)) == {b"tick\n"}


def test_exec_over_the_raw_socket(running: Any) -> None:
    """docker-py takes the socket from under its HTTP client: nothing may be buffered away."""
    stream = running.exec_run(["cat"], socket=True, stdin=True).output._sock
    stream.sendall(b"typed\n")
    assert exactly(stream, 8 + 6) == b"\1\0\0\0\0\0\0\6typed\n"
    stream.close()


def test_attach_over_the_raw_socket(running: Any) -> None:
    stream = running.attach_socket(params={"stdout": 1, "stream": 1})._sock
    stream_id, size = struct.unpack(">BxxxI", exactly(stream, 8))
    assert (stream_id, ticks(exactly(stream, size))) == (1, True)
    stream.close()


def test_attach_as_a_stream(running: Any) -> None:
    output = running.attach(stream=True)
    assert ticks(next(output))


def test_wait_stop_kill_remove(running: Any) -> None:
    running.stop(timeout=10)
    assert running.wait()["StatusCode"] == 0
    running.start()
    running.kill()
    assert running.wait(condition="not-running")["StatusCode"] == 137
    running.remove(v=True)
    with pytest.raises(NotFound):
        running.reload()


def test_rename_pause_restart_top(running: Any) -> None:
    running.rename("other")
    running.pause()
    running.reload()
    assert (running.name, running.status) == ("other", "paused")
    running.unpause()
    running.restart(timeout=10)
    assert "trap" in str(running.top()["Processes"])
    with pytest.raises(APIError) as refused:
        running.remove()
    assert refused.value.status_code == 409


def test_a_command_of_an_exec_is_a_list(client: DockerClient, running: Any) -> None:
    """That of a container may be one word as well; a client that says so here is not told `created`."""
    answer = client.api.post(f"{client.api.base_url}/v1.41/containers/{running.id}/exec", json={"Cmd": "true"})
    assert (answer.status_code, "json" in answer.json()["message"].lower()) == (400, True)


def test_options_are_accepted_and_shown(client: DockerClient) -> None:
    made = client.containers.create(
        "busybox",
        "true",
        mem_limit="64m",
        nano_cpus=500_000_000,
        cap_add=["NET_ADMIN"],
        volumes={"/tmp": {"bind": "/host", "mode": "ro"}},
        tmpfs={"/t": "size=1m"},
        ulimits=[{"Name": "nofile", "Soft": 10, "Hard": 20}],
        dns=["1.1.1.1"],
        extra_hosts={"h": "1.2.3.4"},
        restart_policy={"Name": "on-failure", "MaximumRetryCount": 2},
        log_config={"Type": "json-file", "Config": {"max-size": "1m"}},
        network_mode="none",
        read_only=True,
        working_dir="/tmp",
        healthcheck={"test": ["CMD", "true"], "interval": 10**9},
    )
    host = made.attrs["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["CapAdd"]) == (64 << 20, 500_000_000, ["NET_ADMIN"])
    assert (host["Binds"], host["Tmpfs"], host["Dns"]) == (["/tmp:/host:ro"], {"/t": "size=1m"}, ["1.1.1.1"])
    assert host["ExtraHosts"] == ["h:1.2.3.4"] and host["NetworkMode"] == "none" and host["ReadonlyRootfs"] is True
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}
    (mount,) = made.attrs["Mounts"]
    assert (mount["Type"], mount["Destination"], mount["RW"]) == ("bind", "/host", False)
    assert made.attrs["Config"]["Healthcheck"]["Test"] == ["CMD", "true"]


@pytest.mark.parametrize(
    "change",
    [
        {"mem_limit": "1k"},
        {"nano_cpus": 10**15},
        {"cap_add": ["NOSUCH"]},
        {"volumes": ["./a:/b"]},
        {"restart_policy": {"Name": "foo"}},
        {"extra_hosts": {"h": "no address"}},
    ],
)
def test_bad_options_are_bad_requests(client: DockerClient, change: dict[str, Any]) -> None:
    with pytest.raises(APIError) as refused:
        client.containers.create("busybox", "true", **change)
    assert refused.value.status_code == 400


def test_images(client: DockerClient) -> None:
    image = client.images.get("busybox")
    assert image.tag("some/name", "1")
    assert client.images.get("some/name:1").id == image.id
    client.images.remove("some/name:1")
    assert any("busybox:latest" in each.tags for each in client.images.list())
    assert image.history()
    saved = b"".join(image.save(named=True))
    assert "busybox:latest" in client.images.load(saved)[0].tags
    client.images.prune()


def test_events(client: DockerClient) -> None:
    since = int(time.time())
    client.containers.run("busybox", "true", remove=True, name="told")
    seen = client.events(since=since, until=int(time.time()) + 1, decode=True, filters={"container": "told"})
    actions = [event["Action"] for event in seen if event["Action"] != "attach"]
    assert actions == ["create", "start", "die", "destroy"]


def test_system(client: DockerClient) -> None:
    assert client.ping()
    assert client.info()["OSType"] == "linux"
    assert client.version()["Os"] == "linux"
    assert set(client.df()) >= {"Images", "Containers", "Volumes"}
    assert {"host", "none"} <= {network.name for network in client.networks.list()}
    assert client.volumes.list() == []
    assert client.containers.prune()["SpaceReclaimed"] == 0


def test_old_api_versions_work(target: Target) -> None:
    """docker-java and testcontainers pin 1.32 in the field."""
    import docker

    old = docker.DockerClient(base_url=target.socket, version="1.32")
    assert old.containers.run("busybox", ["echo", "hi"], remove=True) == b"hi\n"
    assert "VirtualSize" in old.images.get("busybox").attrs
    old.close()


def test_an_exec_is_framed_as_its_start_says(client: DockerClient, running: Any) -> None:
    """docker-py creates with a terminal and starts without saying so."""
    made = client.api.exec_create(running.id, ["echo", "hello"], tty=True)
    assert client.api.exec_start(made["Id"]) == b"hello\r\n"


def test_a_terminal_begins_with_the_size_that_the_create_told(client: DockerClient, target: Target) -> None:
    if target.kind == "fake" or client.version()["Version"].startswith("20."):
        pytest.skip("since Docker 23")
    config = client.api.create_container_config("busybox", ["stty", "size"], tty=True)
    config["HostConfig"] = {"ConsoleSize": [57, 123]}
    box = client.containers.get(client.api.create_container_from_config(config)["Id"])
    box.start()
    box.wait()
    assert box.logs() == b"57 123\r\n"


def test_an_empty_word_is_a_program_that_is_not_found(client: DockerClient) -> None:
    box = client.containers.create("busybox", [""])
    with pytest.raises(APIError, match="executable file not found"):
        box.start()
    assert box.attrs["Path"] == ""
