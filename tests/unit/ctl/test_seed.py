"""The embedded images: the same bytes each time, and what an OCI client expects of them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable

import pytest

from bulkhead.ctl.seed import busybox, hello_world
from bulkhead.ctl.seed.images import Image, Tree, image_of


def layer_of(image: Image) -> tarfile.TarFile:
    digest = json.loads(image.manifest)["layers"][0]["digest"]
    return tarfile.open(fileobj=io.BytesIO(gzip.decompress(image.blobs[digest])))


def test_the_same_tree_gives_the_same_digest() -> None:
    """Two installations, or a second `up`, hold one image and not two."""
    first, second = (
        image_of(Tree().directory("bin").file("bin/x", b"1", mode=0o755), command=["/bin/x"]) for _ in range(2)
    )
    assert first == second


def test_every_descriptor_is_true() -> None:
    image = image_of(Tree().file("a", b"1"), Tree().file("b", b"2"))
    manifest = json.loads(image.manifest)
    config = json.loads(image.blobs[manifest["config"]["digest"]])
    for descriptor in (manifest["config"], *manifest["layers"]):
        data = image.blobs[descriptor["digest"]]
        assert descriptor["size"] == len(data)
        assert descriptor["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
    tars = [gzip.decompress(image.blobs[layer["digest"]]) for layer in manifest["layers"]]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]


def test_hello_world_is_one_static_program() -> None:
    with layer_of(hello_world()) as layer:
        assert layer.getnames() == ["hello"]
        program = layer.extractfile("hello")
        assert program is not None
        assert b"Hello from Bulkhead!" in program.read()


def test_busybox_has_a_shell_and_places_to_write() -> None:
    with layer_of(busybox()) as layer:
        assert layer.getmember("bin/sh").linkname == "bin/busybox"
        assert layer.getmember("tmp").mode == 0o1777
        assert layer.getmember("root").mode == 0o700
        passwd = layer.extractfile("etc/passwd")
        assert passwd is not None
        assert passwd.read().startswith(b"root:x:0:0:root:/root:/bin/sh\n")
        assert {member.mtime for member in layer.getmembers()} == {0}


@pytest.mark.parametrize("make", [hello_world, busybox])
def test_an_image_names_its_platform(make: Callable[[], Image]) -> None:
    image = make()
    config = json.loads(image.blobs[json.loads(image.manifest)["config"]["digest"]])
    assert config["os"] == "linux"
    assert config["architecture"] in {"amd64", "arm64"}
