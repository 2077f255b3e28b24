"""Containers through the API: the order of docker run, answers and errors."""

from __future__ import annotations

import json
from urllib.parse import quote

from bulkhead.model.lifecycle import Phase
from tests.integration.api.conftest import Fake


async def test_the_life_of_a_container(fake: Fake) -> None:
    container = await fake.create("sh", "-c", "exit 7", name="web", Labels={"a": "b"})
    ref = f"/containers/{container.id}"
    assert (await fake.call("POST", f"{ref}/start")).status == 204
    waited = await fake.call("POST", f"{ref}/wait")
    assert (waited.json, waited.headers["content-type"]) == ({"StatusCode": 7}, "application/json")
    shown = (await fake.call("GET", "/containers/web/json")).json
    assert (shown["Name"], shown["State"]["Status"], shown["State"]["ExitCode"]) == ("/web", "exited", 7)
    assert (shown["Path"], shown["Args"], shown["Config"]["Labels"]) == ("sh", ["-c", "exit 7"], {"a": "b"})
    assert (await fake.call("DELETE", ref)).status == 204
    assert (await fake.call("DELETE", ref)).message == f"No such container: {container.id}"


async def test_start_and_stop_say_when_nothing_changed(fake: Fake) -> None:
    container = await fake.run("sleep", "100")
    ref = f"/containers/{container.id}"
    again = await fake.call("POST", f"{ref}/start")
    assert (again.status, again.body) == (304, b"")
    assert (await fake.call("POST", f"{ref}/stop?t=1")).status == 204
    assert (await fake.call("POST", f"{ref}/stop")).status == 304


async def test_start_refuses_a_host_config(fake: Fake) -> None:
    container = await fake.create("true")
    reply = await fake.call("POST", f"/containers/{container.id}/start", {"Binds": ["/:/host"]})
    assert reply.status == 400
    assert "removed in v1.24" in reply.message
    assert container.phase is Phase.CREATED


async def test_a_command_that_is_not_there_is_a_bad_request(fake: Fake) -> None:
    """The CLI makes its exit code 127 of the text."""
    container = await fake.create("nosuchcommand")
    reply = await fake.call("POST", f"/containers/{container.id}/start")
    assert reply.status == 400
    assert 'exec: "nosuchcommand": executable file not found in $PATH: unknown' in reply.message


async def test_older_clients_share_their_ipc_namespaces(fake: Fake) -> None:
    """What they run may be joined by `--ipc container:`; newer ones have to say so."""
    for version, asked, mode in (("1.39", {}, "shareable"), ("1.40", {}, ""), ("1.39", {"IpcMode": "none"}, "none")):
        body = {"Image": "busybox", "HostConfig": asked}
        made = (await fake.call("POST", f"/v{version}/containers/create", body)).json["Id"]
        assert fake.manager.containers[made].spec.ipc_mode == mode


async def test_unknown_image_and_taken_name(fake: Fake) -> None:
    missing = await fake.call("POST", "/containers/create", {"Image": "nosuch"})
    assert (missing.status, missing.message) == (404, "No such image: nosuch:latest")
    container = await fake.create("true", name="web")
    taken = await fake.call("POST", "/containers/create?name=web", {"Image": "busybox"})
    assert taken.status == 409
    assert taken.message.startswith(
        f'Conflict. The container name "/web" is already in use by container "{container.id}"'
    )


async def test_create_answers_with_id_and_warnings(fake: Fake) -> None:
    body = {"Image": "busybox", "HostConfig": {"NetworkMode": "host", "PortBindings": {"80/tcp": [{}]}}}
    reply = await fake.call("POST", "/containers/create?name=/web", body)
    assert reply.status == 201
    assert reply.json["Warnings"] == ["Published ports are discarded when using host network mode"]
    assert (await fake.call("POST", "/containers/create", {"Image": "busybox"})).json["Warnings"] == []


async def test_a_bind_source_that_is_not_there_is_refused_for_mount_only(fake: Fake) -> None:
    def body(**host: object) -> dict[str, object]:
        return {"Image": "busybox", "HostConfig": host}

    mount = {"Type": "bind", "Source": "/no/such/path", "Target": "/x"}
    refused = await fake.call("POST", "/containers/create", body(Mounts=[mount]))
    assert refused.message == 'invalid mount config for type "bind": bind source path does not exist: /no/such/path'
    assert (await fake.call("POST", "/containers/create", body(Binds=["/no/such/path:/x"]))).status == 201
    assert (await fake.call("POST", "/containers/create", body(Mounts=[{**mount, "Source": "/tmp"}]))).status == 201


async def test_lists_filter_limit_and_size(fake: Fake) -> None:
    await fake.create("true", name="one", Labels={"k": "1"})
    await fake.run("sleep", "100", name="two", Labels={"k": "2"})

    async def names(query: str) -> list[str]:
        return [each["Names"][0] for each in (await fake.call("GET", f"/containers/json?{query}")).json]

    assert await names("") == ["/two"]
    assert await names("all=1") == ["/two", "/one"]
    assert await names("all=false") == ["/two"]
    assert await names("limit=1") == ["/two"]
    assert await names("all=1&filters=" + quote(json.dumps({"label": ["k=1"]}))) == ["/one"]
    assert await names("filters=" + quote(json.dumps({"status": {"created": True}}))) == ["/one"]


async def test_kill_checks_the_signal_first(fake: Fake) -> None:
    container = await fake.run("sleep", "100")
    bad = await fake.call("POST", f"/containers/{container.id}/kill?signal=FOO")
    assert (bad.status, bad.message) == (400, "Invalid signal: FOO")
    assert (await fake.call("POST", f"/containers/{container.id}/kill?signal=SIGKILL")).status == 204
    assert (await fake.call("POST", f"/containers/{container.id}/wait")).json == {"StatusCode": 137}
    assert (await fake.call("POST", f"/containers/{container.id}/kill")).status == 409


async def test_pause_rename_restart_top_prune(fake: Fake) -> None:
    container = await fake.run("sleep", "100", name="web")
    ref = f"/containers/{container.id}"
    assert (await fake.call("POST", f"{ref}/pause")).status == 204
    assert (await fake.call("GET", f"{ref}/json")).json["State"]["Paused"] is True
    assert (await fake.call("POST", f"{ref}/unpause")).status == 204
    assert (await fake.call("POST", f"{ref}/unpause")).status == 500
    assert (await fake.call("POST", f"{ref}/rename?name=")).status == 400
    assert (await fake.call("POST", f"{ref}/rename?name=a b".replace(" ", "%20"))).status == 400
    assert (await fake.call("POST", f"{ref}/rename?name=db")).status == 204
    assert (await fake.call("POST", f"{ref}/restart?t=1")).status == 204
    top = (await fake.call("GET", "/containers/db/top")).json
    assert top["Processes"][0][-1] == "sleep 100"
    assert (await fake.call("POST", "/containers/prune")).json == {"ContainersDeleted": None, "SpaceReclaimed": 0}
    assert (await fake.call("DELETE", f"{ref}")).status == 409
    assert (await fake.call("DELETE", f"{ref}?force=1&v=1")).status == 204


async def test_published_ports_are_shown(fake: Fake) -> None:
    host = {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}}
    container = await fake.run("sleep", "100", ExposedPorts={"80/tcp": {}}, HostConfig=host)
    shown = (await fake.call("GET", f"/containers/{container.id}/json")).json["NetworkSettings"]
    assert shown["Ports"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}
    (listed,) = (await fake.call("GET", "/containers/json")).json
    assert listed["Ports"] == [{"IP": "127.0.0.1", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}]
