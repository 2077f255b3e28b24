"""Requests that can never succeed: the right status, Docker's words, and nothing left."""

from __future__ import annotations

from typing import Any

import pytest

from bulkhead.ctl.seed.images import Tree, image_of
from bulkhead.ctl.seed.push import push
from tests.support.engine import Engine
from tests.support.images import exit_code_image, push_image

CREATE = "/containers/create?name=bad"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", CREATE, {"Image": "nosuch"}, 404, "No such image: nosuch"),
        ("POST", "/containers/create?name=a/b", {"Image": "busybox"}, 400, "Invalid container name (a/b)"),
        ("POST", CREATE, {"Image": "busybox", "Cmd": [], "Entrypoint": [""]}, 400, "No command specified"),
        ("POST", CREATE, {"Image": "Upper/Case"}, 400, "must be lowercase"),
        ("POST", CREATE, {"Image": 7}, 400, ""),
        ("POST", CREATE, {"Image": "busybox", "Cmd": {"a": 1}}, 400, ""),
        ("POST", CREATE, {"Image": "busybox", "HostConfig": {"Memory": "much"}}, 400, ""),
        ("POST", CREATE, ["Image"], 400, ""),
        ("GET", "/containers/nosuch/json", None, 404, "No such container: nosuch"),
        ("GET", "/images/nosuch/json", None, 404, "No such image: nosuch"),
        ("POST", "/images/create?fromImage=Bad%20Name", None, 400, "invalid reference format"),
        ("GET", "/v1.10/version", None, 400, "client version 1.10 is too old"),
        ("GET", "/v9.99/version", None, 400, "client version 9.99 is too new"),
        ("GET", "/no/such/page", None, 404, "page not found"),
    ],
)
def test_a_bad_request(engine: Engine, method: str, path: str, body: Any, status: int, words: str) -> None:
    answer = engine.api(method, path, body)
    assert answer.status == status, answer.body
    # To clients older than 1.24 errors are plain text, as dockerd does it.
    assert words in (answer.json["message"] if answer.json else answer.body.decode())
    assert engine.api("GET", "/containers/json?all=1").json == []


def test_a_name_that_is_taken(engine: Engine) -> None:
    assert engine.api("POST", CREATE, {"Image": "busybox"}).status == 201
    again = engine.api("POST", CREATE, {"Image": "busybox"})
    assert again.status == 409
    assert 'The container name "/bad" is already in use by container' in again.json["message"]


@pytest.mark.parametrize(("command", "words"), [("nosuch", "executable file not found"), ("/etc", "permission denied")])
def test_a_command_that_cannot_be_run(engine: Engine, command: str, words: str) -> None:
    """400 at start, as Docker says it; the container stays and can be removed."""
    assert engine.api("POST", CREATE, {"Image": "busybox", "Cmd": [command]}).status == 201
    started = engine.api("POST", "/containers/bad/start")
    assert started.status == 400, started.body
    assert words in started.json["message"]
    assert engine.api("GET", "/containers/bad/json").json["State"]["Status"] == "created"


def test_an_image_that_nobody_has(engine: Engine) -> None:
    """Asked of our registry by its full name, so that the answer does not depend on the internet."""
    answer = engine.api("POST", f"/images/create?fromImage={engine.instance.registry}/team/nosuch&tag=1")
    assert "nosuch" in answer.body.decode()
    assert answer.status == 404 or b'"errorDetail"' in answer.body


def test_a_layer_that_climbs_out_writes_nothing(engine: Engine) -> None:
    """A hostile layer fails the pull and leaves neither image nor file."""
    escape = "../../../../../../tmp/bh-escaped"
    name = push_image(engine.instance.registry, "hostile/climber", image_of(Tree().file(escape, b"x"), command=["/x"]))
    assert engine.docker("pull", name).returncode != 0
    assert not engine.base.parent.joinpath("bh-escaped").exists()
    assert engine.api("GET", f"/images/{name}/json").status == 404


def test_a_layer_with_a_wrong_diff_id(engine: Engine) -> None:
    """The configuration promises other content than the layer has."""
    good, other = image_of(Tree().file("a", b"1")), image_of(Tree().file("a", b"2"))
    manifest = good.manifest.replace(layer_digest(good).encode(), layer_digest(other).encode())
    push(engine.instance.registry, "hostile/other", "latest", other)
    lying = type(good)(blobs={**good.blobs, **other.blobs}, manifest=manifest)
    name = push_image(engine.instance.registry, "hostile/liar", lying)
    assert engine.docker("pull", name).returncode != 0
    assert engine.api("GET", f"/images/{name}/json").status == 404


def test_an_image_with_its_own_exit_code(engine: Engine) -> None:
    """The control of the two above: an honest image from the same place runs."""
    name = push_image(engine.instance.registry, "honest/seven", exit_code_image(7))
    assert engine.docker("run", "--rm", name).returncode == 7
    engine.docker_ok("rmi", name)


def layer_digest(image: Any) -> str:
    digests = [digest for digest in image.blobs if image.blobs[digest][:2] == b"\x1f\x8b"]
    assert len(digests) == 1
    return str(digests[0])
