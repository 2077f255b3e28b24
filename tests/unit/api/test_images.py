"""Images in answers. Their configs are made by strangers."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from typing import Any

import pytest

from bulkhead.api.ports.images import InspectedImage, ListedImage, Progress, RegistryAuth, RemovedImage
from bulkhead.api.routes.images import joined
from bulkhead.api.schema import images as schema
from bulkhead.api.schema.deltas import fitted
from bulkhead.api.versions import Version


def header(value: Any) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def test_credentials_are_read_from_the_header() -> None:
    auth = schema.parse_auth_header(header({"username": "u", "password": "p", "serveraddress": "s"}))
    assert auth == RegistryAuth(username="u", password="p", server_address="s")


@pytest.mark.parametrize("text", ["", "%%%", "AA", header({}), header([]), header({"username": 1}), "äö"])
def test_malformed_credentials_mean_anonymous(text: str) -> None:
    assert schema.parse_auth_header(text) is None


@pytest.mark.parametrize(
    ("name", "tag", "reference"),
    [
        ("busybox", "", "busybox"),
        ("busybox", "1", "busybox:1"),
        ("busybox:0", "1", "busybox:1"),
        ("localhost:5000/a/b", "1", "localhost:5000/a/b:1"),
        ("busybox", "sha256:" + "a" * 64, "busybox@sha256:" + "a" * 64),
    ],
)
def test_image_and_tag_make_a_reference(name: str, tag: str, reference: str) -> None:
    assert joined(name, tag) == reference


HOSTILE: list[bytes] = [
    b"",
    b"null",
    b"[]",
    b"\xff",
    b"[" * 50_000,
    b'{"config":[],"rootfs":1,"history":{},"created":5,"os":null}',
    b'{"config":{"Env":"A","Cmd":[1],"Labels":[],"User":7},"rootfs":{"diff_ids":[1,"x"]},"history":[1]}',
]


@pytest.mark.parametrize("config", HOSTILE)
def test_hostile_configs_are_shown_as_far_as_they_make_sense(config: bytes) -> None:
    shown = schema.inspected(InspectedImage(id="sha256:1", config=config))
    assert shown["Config"] == {}
    assert shown["Created"] == "" and shown["Os"] == "linux"
    assert shown["RootFS"]["Layers"] in ([], ["x"])


def test_old_versions_get_the_keys_their_sdks_index() -> None:
    image = InspectedImage(id="sha256:1", config=b'{"config":{"Cmd":["sh"]}}', size=5)
    shown = fitted("image", schema.inspected(image), Version(1, 40))
    assert shown["VirtualSize"] == 5 and shown["ContainerConfig"]["Hostname"] == ""
    assert shown["Config"]["Cmd"] == ["sh"] and shown["Config"]["Env"] is None
    listed = fitted("listed image", schema.listed(ListedImage(id="sha256:1", size=5, containers=3)), Version(1, 40))
    assert (listed["VirtualSize"], listed["Containers"]) == (5, -1)
    assert (listed["RepoTags"], listed["RepoDigests"]) == (["<none>:<none>"], ["<none>@<none>"])


def test_progress_lines_have_dockers_keys() -> None:
    assert schema.progress(Progress(status="Digest: x")) == {"status": "Digest: x"}
    assert schema.progress(Progress(id="1", status="Waiting")) == {"status": "Waiting", "progressDetail": {}, "id": "1"}
    shown = schema.progress(Progress(id="1", status="Downloading", current=25, total=100))
    assert shown["progressDetail"] == {"current": 25, "total": 100}
    assert shown["progress"] == "[============>                                      ]      25B/100B"
    assert schema.progress(Progress(stream="Loaded\n")) == {"stream": "Loaded\n"}


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0B"), (999, "999B"), (1000, "1kB"), (1_234_567, "1.235MB"), (10**13, "10TB")]
)
def test_sizes_for_people(count: int, text: str) -> None:
    assert schema.size(count) == text


def test_removed_images_tell_what_happened() -> None:
    shown = schema.removed([RemovedImage(untagged="a:1"), RemovedImage(deleted="sha256:1")])
    assert shown == [{"Untagged": "a:1"}, {"Deleted": "sha256:1"}]
