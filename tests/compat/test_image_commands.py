"""images, tag, rmi, prune, history, inspect, save and load, with what clients read of their answers."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import time
from collections.abc import Iterator

import pytest
from docker import APIClient, DockerClient
from docker.errors import APIError, ImageNotFound

from tests.compat.conftest import Target

BASES = {"busybox:latest", "hello-world:latest"}
pytestmark = pytest.mark.parametrize("target", ["real", "dockerd"], indirect=True)


@pytest.fixture(autouse=True)
def no_images_left(target: Target) -> Iterator[None]:
    if target.docker("image", "inspect", "busybox").returncode:
        target.ok("pull", "busybox")
    yield
    base = target.ok("images", "-q", "--no-trunc", "busybox").split()
    left = set(target.ok("images", "-aq", "--no-trunc").split()) - set(base)
    if left:
        target.docker("rmi", "-f", *left)


def packed(**files: bytes) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return held.getvalue()


def imported(target: Target, name: str = "", *flags: str, content: bytes = b"x") -> str:
    """An image of one file; its id."""
    return target.ok("import", *flags, "-", *([name] if name else []), input=packed(file=content)).split("\n")[-1]


def names(target: Target, *flags: str) -> set[str]:
    return set(target.ok("images", "--format", "{{.Repository}}:{{.Tag}}", *flags).split()) - BASES


def test_list_filters(target: Target) -> None:
    imported(target, "one/a:1", "-c", "LABEL k=v", content=b"1")
    time.sleep(1.1)  # images are as old as the second they were made in
    imported(target, "one/b:2", "-c", "LABEL k=w", content=b"2")
    imported(target, "", content=b"3")
    assert names(target, "--filter", "label=k=v") == {"one/a:1"}
    assert names(target, "--filter", "label=k") == {"one/a:1", "one/b:2"}
    assert names(target, "--filter", "dangling=true") == {"<none>:<none>"}
    assert names(target, "--filter", "reference=one/*") == {"one/a:1", "one/b:2"}
    assert names(target, "--filter", "reference=*/*:2") == {"one/b:2"}
    assert names(target, "--filter", "before=one/b:2") == {"one/a:1"}
    assert names(target, "--filter", "since=one/a:1") == {"one/b:2", "<none>:<none>"}
    assert names(target, "one/a") == {"one/a:1"}
    for bad in ("nosuch=1", "dangling=perhaps", "before=nosuch"):
        assert target.docker("images", "--filter", bad).returncode == 1, bad


def test_tag_and_untag(target: Target) -> None:
    image = imported(target, "first:1", content=b"t")
    target.ok("tag", "first:1", "second:2")
    assert target.ok("rmi", "first:1") == "Untagged: first:1"
    told = target.ok("rmi", "second:2").split("\n")
    assert told[0] == "Untagged: second:2" and f"Deleted: {image}" in told
    assert target.docker("rmi", "second:2").stderr.strip().endswith("No such image: second:2")
    for bad, words in (("UPPER:1", "must be lowercase"), ("a:b c", "invalid"), ("x@sha256:" + "0" * 64, "digest")):
        assert words in target.docker("tag", "busybox", bad).stderr


def test_rmi_conflicts(target: Target) -> None:
    image = imported(target, "used:1", "-c", 'CMD ["x"]', content=b"u")
    short = image.removeprefix("sha256:")[:12]
    made = target.ok("create", "--name", "user", "used:1")[:12]
    by_name = f'unable to remove repository reference "used:1" (must force) - container {made} is using its referenced'
    assert f"{by_name} image {short}" in target.docker("rmi", "used:1").stderr
    stopped = f"unable to delete {short} (must be forced) - image is being used by stopped container {made}"
    assert stopped in target.docker("rmi", image).stderr
    target.ok("tag", "used:1", "other:1")
    several = f"unable to delete {short} (must be forced) - image is referenced in multiple repositories"
    assert several in target.docker("rmi", image).stderr
    target.ok("rmi", "other:1")
    assert "Untagged: used:1" in target.ok("rmi", "-f", "used:1")
    target.ok("run", "-d", "--name", "runs", "busybox", "sleep", "1000")
    base = target.ok("images", "-q", "busybox")
    assert (
        f"unable to delete {base} (cannot be forced) - image is being used by running container"
        in target.docker("rmi", "-f", base).stderr
    )


def test_prune(target: Target, client: DockerClient) -> None:
    loose = imported(target, "", content=b"p" * 100)
    imported(target, "kept:1", "-c", "LABEL keep=1", content=b"k")
    imported(target, "gone:1", content=b"g")
    answer = client.images.prune()
    assert {"Deleted": loose} in answer["ImagesDeleted"] and answer["SpaceReclaimed"] >= 100
    assert client.images.prune()["SpaceReclaimed"] == 0
    told = client.images.prune({"dangling": False, "label": "keep=2"})
    assert told["ImagesDeleted"] is None
    assert client.images.prune({"dangling": False, "label": "keep", "until": "1h"})["ImagesDeleted"] is None
    target.ok("create", "--name", "holds", "busybox")
    told = client.images.prune({"dangling": False, "label!": "keep"})
    assert {"Untagged": "gone:1"} in told["ImagesDeleted"] and names(target) == {"kept:1"}
    with pytest.raises(APIError):
        client.images.prune({"nosuch": "1"})


def test_history_and_inspect(target: Target) -> None:
    image = imported(target, "told:1", "-m", "note", "-c", "ENV A=b", content=b"hh")
    (line,) = target.ok("history", "--no-trunc", "--format", "{{.ID}}|{{.Size}}|{{.Comment}}", "told:1").split("\n")
    assert line == f"{image}|2B|note"
    (shown,) = json.loads(target.ok("inspect", "told:1"))
    assert (shown["Id"], shown["RepoTags"], shown["Comment"], shown["Size"]) == (image, ["told:1"], "note", 2)
    assert (shown["Config"]["Env"], shown["Os"], shown["RootFS"]["Type"]) == (["A=b"], "linux", "layers")
    short = image.removeprefix("sha256:")[:12]
    for ref in (short, image, "told:1", f"sha256:{short}"):
        assert target.ok("inspect", "-f", "{{.Id}}", ref) == image
    for command in ("inspect", "history"):
        assert "No such image: nosuch" in target.docker("image", command, "nosuch").stderr


def test_save_and_load_keep_ids_and_names(target: Target) -> None:
    first = imported(target, "saved/one:1", content=b"1")
    second = imported(target, "saved/two:1", content=b"2")
    target.ok("tag", "saved/one:1", "saved/one:more")
    archive = target.base / "saved.tar"
    target.ok("save", "-o", str(archive), "saved/one", "saved/two:1")
    with tarfile.open(archive) as found:
        listed = json.load(found.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert {tag for image in listed for tag in image["RepoTags"]} == {"saved/one:1", "saved/one:more", "saved/two:1"}
    target.ok("rmi", "saved/one:1", "saved/one:more", "saved/two:1")
    told = target.ok("load", "-q", "-i", str(archive)).split("\n")
    assert sorted(told) == [f"Loaded image: saved/{name}" for name in ("one:1", "one:more", "two:1")]
    assert target.ok("inspect", "-f", "{{.Id}}", "saved/one:more", "saved/two:1").split() == [first, second]


def test_load_from_stdin_compressed_and_nameless(target: Target, client: DockerClient) -> None:
    image = imported(target, "", content=b"n")
    data = b"".join(client.images.get(image).save())
    target.ok("rmi", image)
    assert target.ok("load", input=gzip.compress(data)).split("\n")[-1] == f"Loaded image ID: {image}"
    loaded = client.images.load(data)
    assert [each.id for each in loaded] == [image]


@pytest.mark.parametrize(
    "files",
    [
        {"manifest.json": b"no json"},
        {"manifest.json": b'[{"Config":"../../etc/passwd","Layers":[]}]'},
        {"manifest.json": b'[{"Config":"c.json","Layers":["l.tar"]}]', "c.json": b"{}"},
        {"something": b"else"},
    ],
    ids=["bad json", "leads out", "layer missing", "no image"],
)
def test_load_refuses_what_is_no_image(target: Target, client: DockerClient, files: dict[str, bytes]) -> None:
    before = target.ok("images", "-aq")
    done = target.docker("load", input=packed(**files))
    assert done.returncode == 1 or "Loaded" not in done.stdout
    assert target.ok("images", "-aq") == before


def test_save_of_an_unknown_image(target: Target, client: DockerClient) -> None:
    with pytest.raises(APIError) as missing:
        b"".join(client.api.get_image("nosuch"))
    assert missing.value.status_code in (404, 500)
    with pytest.raises(ImageNotFound):
        client.images.get("nosuch")


def events_of(target: Target, since: float) -> list[tuple[str, str]]:
    told = target.ok(
        "events",
        "--since",
        f"{since:.9f}",
        "--until",
        f"{time.time():.9f}",
        "--filter",
        "type=image",
        "--format",
        "json",
    )
    found = [json.loads(line) for line in told.splitlines()]
    return [(event["Action"], event["Actor"]["Attributes"]["name"]) for event in found]


def test_events(target: Target) -> None:
    since = time.time()
    image = imported(target, "events:1", content=b"e")
    target.ok("tag", "events:1", "events:2")
    target.ok("save", "-o", str(target.base / "events.tar"), "events:1")
    target.ok("rmi", "events:1", "events:2")
    target.ok("load", "-i", str(target.base / "events.tar"))
    told = events_of(target, since)
    wanted = [("tag", "events:1"), ("import", image), ("tag", "events:2"), ("save", image), ("untag", image)]
    assert sorted(told[:2]) == sorted(wanted[:2]) and told[2:5] == wanted[2:]
    assert ("delete", image) in told[5:] and ("load", image) in told[-2:]


def test_commands_answer_as_the_specification_says(target: Target) -> None:
    """The raw answers, whose fields old clients index."""
    imported(target, "shape:1", content=b"s")
    client = APIClient(base_url=target.socket, version="1.41")
    (one,) = [each for each in client.images() if each["RepoTags"] == ["shape:1"]]
    assert one.keys() >= {"Id", "ParentId", "RepoTags", "RepoDigests", "Created", "Size", "SharedSize", "Labels"}
    assert one["VirtualSize"] == one["Size"] == 1 and one["Containers"] == -1
    shown = client.inspect_image("shape:1")
    assert shown.keys() >= {"Container", "ContainerConfig", "DockerVersion", "VirtualSize", "Metadata", "GraphDriver"}
    (line,) = client.history("shape:1")
    assert line.keys() == {"Id", "Created", "CreatedBy", "Tags", "Size", "Comment"} and line["Tags"] == ["shape:1"]
    usage = client.df()
    sizes = {tag: each for each in usage["Images"] for tag in each["RepoTags"]}
    assert sizes["shape:1"]["SharedSize"] == 0 and sizes["shape:1"]["Containers"] == 0
    assert usage["LayersSize"] > 1
    client.close()
