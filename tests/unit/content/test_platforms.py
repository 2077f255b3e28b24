"""Which image of several is for this machine."""

from __future__ import annotations

import json

import pytest

from bulkhead.content import media_types
from bulkhead.content.manifests import Index, Platform, parse_manifest
from bulkhead.content.platforms import choose, fits, parse_platform
from bulkhead.errors import InvalidArgument, NotFound
from bulkhead.model.digest import Digest
from bulkhead.model.reference import parse_reference


def index_of(*platforms: dict[str, str] | None) -> Index:
    entries = [
        {
            "mediaType": media_types.OCI_MANIFEST,
            "digest": str(Digest.of(bytes([number]))),
            "size": 1,
            **({"platform": platform} if platform is not None else {}),
        }
        for number, platform in enumerate(platforms)
    ]
    parsed = parse_manifest(json.dumps({"schemaVersion": 2, "manifests": entries}).encode())
    assert isinstance(parsed, Index)
    return parsed


AMD64 = {"os": "linux", "architecture": "amd64"}
ARM64 = {"os": "linux", "architecture": "arm64", "variant": "v8"}


def arm(variant: str) -> dict[str, str]:
    return {"os": "linux", "architecture": "arm", "variant": variant}


ATTESTATION = {"os": "unknown", "architecture": "unknown"}


@pytest.mark.parametrize(
    ("platforms", "wanted", "chosen"),
    [
        ((ARM64, AMD64), "linux/amd64", 1),
        ((ARM64, AMD64, AMD64), "linux/amd64", 1),
        ((AMD64, ATTESTATION), "linux/amd64", 0),
        ((AMD64, ARM64), "linux/arm64", 1),
        ((AMD64, ARM64), "linux/arm64/v8", 1),
        ((None,), "linux/amd64", 0),
        (({**AMD64, "variant": "v3"}, AMD64), "linux/amd64", 1),
        (({**AMD64, "variant": "v3"},), "linux/amd64", 0),
        ((arm("v5"), arm("v7"), arm("v6")), "linux/arm/v7", 1),
        ((arm("v5"), arm("v7"), arm("v6")), "linux/arm", 1),
        ((arm("v7"), arm("v5")), "linux/arm/v6", 1),
    ],
)
def test_the_first_that_fits_is_chosen(platforms: tuple[dict[str, str] | None, ...], wanted: str, chosen: int) -> None:
    index = index_of(*platforms)
    assert choose(index, parse_platform(wanted)) is index.manifests[chosen]


@pytest.mark.parametrize("platforms", [(), (ARM64,), (None, None), (ATTESTATION,)])
def test_nothing_that_fits_is_said_as_docker_says_it(platforms: tuple[dict[str, str] | None, ...]) -> None:
    with pytest.raises(NotFound) as caught:
        choose(index_of(*platforms), name=parse_reference("box:v1"))
    assert str(caught.value) == "no matching manifest for box:v1 for linux/amd64 in the manifest list entries"


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("linux", ("linux", "amd64", "")),
        ("linux/amd64", ("linux", "amd64", "")),
        ("LINUX/X86_64", ("linux", "amd64", "")),
        ("arm64", ("linux", "arm64", "")),
        ("linux/aarch64", ("linux", "arm64", "")),
        ("linux/arm/v7", ("linux", "arm", "v7")),
        ("windows", ("windows", "amd64", "")),
        ("macOS", ("darwin", "amd64", "")),
        ("plan10/sparc", ("plan10", "sparc", "")),
    ],
)
def test_platforms_as_people_write_them(text: str, platform: tuple[str, str, str]) -> None:
    parsed = parse_platform(text)
    assert (parsed.os, parsed.architecture, parsed.variant) == platform


@pytest.mark.parametrize("text", ["", "/", "linux/", "linux/amd64/v1/x", "linux/a b", "../x", "linux//v7", "foobar"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_platform(text)


def test_a_variant_counts_only_when_it_is_wanted() -> None:
    v7 = Platform(os="linux", architecture="arm", variant="v7")
    plain = Platform(os="linux", architecture="arm")
    v6 = Platform(os="linux", architecture="arm", variant="v6")
    assert [fits(v7, plain), fits(v7, v7), fits(v7, v6), fits(plain, v6)] == [True, True, False, True]
