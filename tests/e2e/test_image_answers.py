"""The whole engine's answers about images and containers' files, against the Engine API's own description."""

from __future__ import annotations

import pytest

from tests.support.api_description import SPEC, validate
from tests.support.engine import Engine

pytestmark = pytest.mark.skipif(not SPEC.exists(), reason=f"{SPEC} is not on this machine")


def test_answers_are_as_described(engine: Engine) -> None:
    engine.pulled("busybox")
    engine.docker_ok("run", "--name", "told", "busybox", "sh", "-c", "touch /new; rm -r /tmp")
    for path, described in (
        # Without manifests: the description requires an UnpackedSize that it does not describe, and Docker sends none.
        ("/images/json?shared-size=1", "/images/json"),
        ("/images/busybox/json", "/images/{name}/json"),
        ("/images/busybox/history", "/images/{name}/history"),
        ("/images/search?term=busybox", "/images/search"),
        ("/distribution/busybox/json", "/distribution/{name}/json"),
        ("/containers/told/changes", "/containers/{id}/changes"),
        ("/system/df", "/system/df"),
    ):
        answer = engine.api("GET", path)
        assert answer.status == 200, answer.body
        validate(answer.json, "GET", described)
    made = engine.api("POST", "/commit?container=told&repo=told&tag=1", {})
    assert made.status == 201, made.body
    validate(made.json, "POST", "/commit", 201)
    validate(engine.api("DELETE", "/images/told:1").json, "DELETE", "/images/{name}")
    validate(engine.api("POST", "/images/prune").json, "POST", "/images/prune")
    validate(engine.api("POST", "/build/prune").json, "POST", "/build/prune")
    assert engine.api("POST", "/build").status == 501


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/containers/nosuch/changes", 404),
        ("GET", "/containers/nosuch/export", 404),
        ("POST", "/commit?container=nosuch", 404),
        ("POST", "/commit", 400),
        ("POST", "/commit?container=told&repo=UPPER", 400),
        ("POST", "/commit?container=told&repo=a&tag=b%20c", 400),
        ("POST", "/commit?container=told&changes=FROM%20x", 400),
        ("POST", "/images/create?fromSrc=-&repo=UPPER", 400),
        ("POST", "/images/create?fromSrc=file:///etc/passwd&repo=a", 400),
        ("POST", "/images/create?fromSrc=-&repo=a&platform=a/b/c/d", 400),
        ("POST", "/images/create?fromSrc=-&repo=a&changes=RUN%20x", 400),
        ("GET", "/images/search", 400),
        ("GET", "/images/search?term=x&limit=x", 400),
        ("GET", "/images/search?term=x&filters=%7B%22nosuch%22%3A%5B%221%22%5D%7D", 400),
        ("GET", "/distribution/UPPER/json", 400),
        ("GET", "/images/get?names=nosuch", 404),
        ("POST", "/auth", 400),
    ],
)
def test_bad_requests(engine: Engine, method: str, path: str, status: int) -> None:
    if engine.api("GET", "/containers/told/json").status == 404 and "container=told" in path:
        engine.pulled("busybox")
        engine.docker_ok("create", "--name", "told", "busybox")
    answer = engine.api(method, path, {} if path == "/commit" else None)
    assert (answer.status, set(answer.json)) == (status, {"message"}), answer.body


def test_a_committed_image_goes_round_by_a_registry(engine: Engine) -> None:
    name = f"{engine.instance.registry}/team/made:1"
    engine.pulled("busybox")
    engine.docker_ok("run", "--name", "maker", "busybox", "sh", "-c", "echo mine >/mine")
    image = engine.docker_ok("commit", "-c", 'CMD ["cat", "/mine"]', "maker", name)
    engine.docker_ok("push", name)
    engine.docker_ok("rmi", name)
    engine.docker_ok("pull", name)
    assert engine.docker_ok("inspect", "-f", "{{.Id}}", name) == image
    assert engine.docker_ok("run", "--rm", name) == "mine"
    engine.docker_ok("rm", "maker")
    engine.docker_ok("rmi", name)
