"""Images through the API."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode

from tests.integration.api.conftest import Fake


async def test_pull_streams_lines_that_end_with_crlf(fake: Fake) -> None:
    reply = await fake.call("POST", "/images/create?fromImage=alpine&tag=latest")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.body.endswith(b"\r\n")
    lines = [json.loads(line) for line in reply.body.split(b"\r\n") if line]
    assert lines[0] == {"status": "Pulling from library/alpine", "progressDetail": {}, "id": "latest"}
    assert lines[1]["progressDetail"] == {"current": 50, "total": 100}
    assert lines[-1]["status"] == "Status: Downloaded newer image for alpine:latest"


async def test_errors_before_the_first_line_have_their_status(fake: Fake) -> None:
    denied = await fake.call("POST", "/images/create?fromImage=nosuch&tag=1")
    assert denied.status == 404
    assert denied.message.startswith("pull access denied for nosuch, repository does not exist")
    bad = await fake.call("POST", "/images/create?fromImage=UPPER")
    assert bad.status == 400 and "must be lowercase" in bad.message
    assert (await fake.call("POST", "/images/create")).status == 400


async def test_errors_after_it_end_the_stream(fake: Fake) -> None:
    auth = urlsafe_b64encode(json.dumps({"username": "u", "password": "wrong"}).encode()).decode()
    reply = await fake.call("POST", "/images/busybox/push?tag=latest", X_Registry_Auth=auth)
    assert reply.status == 200
    last = json.loads(reply.body.split(b"\r\n")[-2])
    text = "unauthorized: authentication required"
    assert last == {"errorDetail": {"message": text}, "error": text}


async def test_push_ends_with_the_digest(fake: Fake) -> None:
    reply = await fake.call("POST", "/images/busybox/push?tag=latest", X_Registry_Auth="e30")
    assert json.loads(reply.body.split(b"\r\n")[-2])["aux"]["Tag"] == "latest"


async def test_look_tag_and_remove(fake: Fake) -> None:
    assert len((await fake.call("GET", "/images/json")).json) == 2
    assert (await fake.call("GET", "/images/busybox/json")).json["Config"]["Cmd"] == ["sh"]
    assert (await fake.call("GET", "/images/busybox/history")).json[0]["CreatedBy"] == "made up"
    tagged = await fake.call("POST", "/images/busybox/tag?repo=localhost:5000/a/b&tag=1")
    assert (tagged.status, tagged.body) == (201, b"")
    assert (await fake.call("GET", "/images/localhost:5000/a/b:1/json")).status == 200
    assert (await fake.call("POST", "/images/busybox/tag?repo=BAD")).status == 400
    removed = await fake.call("DELETE", "/images/localhost:5000/a/b:1")
    assert removed.json == [{"Untagged": "localhost:5000/a/b:1"}]
    assert (await fake.call("GET", "/images/nosuch/json")).message == "No such image: nosuch:latest"
    assert (await fake.call("POST", "/images/prune")).json == {"ImagesDeleted": None, "SpaceReclaimed": 0}
    assert (await fake.call("GET", "/images/json?filters=%7B%22dangling%22%3A%5B%22maybe%22%5D%7D")).status == 400


async def test_save_and_load(fake: Fake) -> None:
    saved = await fake.call("GET", "/images/get?names=busybox&names=hello-world")
    assert (saved.headers["content-type"], saved.body) == ("application/x-tar", b"fake tar of busybox hello-world")
    assert (await fake.call("GET", "/images/busybox/get")).body == b"fake tar of busybox"
    assert (await fake.call("GET", "/images/nosuch/get")).status == 404
    data = saved.body + b"x" * (3 << 20)
    loaded = await fake.call("POST", "/images/load?quiet=1", data, Content_Type="application/x-tar")
    assert json.loads(loaded.body) == {"stream": "Loaded image: busybox:latest\n"}
    assert fake.manager.loaded == data
    bad = await fake.call("POST", "/images/load", b"rubbish", Content_Type="application/x-tar")
    assert (bad.status, bad.json["error"]) == (200, "archive/tar: invalid tar header"), (
        "docker-py looks into the stream"
    )


async def test_disk_usage(fake: Fake) -> None:
    usage = (await fake.call("GET", "/system/df")).json
    assert usage["LayersSize"] == 8_000_000 and len(usage["Images"]) == 2
    assert (usage["Containers"], usage["Volumes"], usage["BuildCache"]) == ([], [], [])
    assert fake.manager.measured, "what they take is shown"
    fake.manager.measured = False
    assert (await fake.call("GET", "/system/df?type=image")).json["Containers"] is None
    assert not fake.manager.measured, "thousands of trees are walked for nobody"
    assert (await fake.call("GET", "/system/df?type=foo")).status == 400
    older = (await fake.call("GET", "/v1.43/system/df?type=image")).json["Images"]
    assert [each["VirtualSize"] for each in older] == [each["Size"] for each in usage["Images"]]
    assert not any("VirtualSize" in each for each in usage["Images"])
