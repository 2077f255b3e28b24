"""Names of images as Docker reads them: the tables follow distribution/reference, texts included."""

from __future__ import annotations

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.model.digest import Digest
from bulkhead.model.reference import is_repository, is_tag, parse_reference, parse_tag_target

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("busybox", "docker.io/library/busybox", "busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("library/busybox", "docker.io/library/busybox", "busybox"),
        ("docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("docker.io/library/busybox:x", "docker.io/library/busybox:x", "busybox:x"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox", "busybox"),
        ("index.docker.io/user/app", "docker.io/user/app", "user/app"),
        ("user/app", "docker.io/user/app", "user/app"),
        ("user/deep/app", "docker.io/user/deep/app", "user/deep/app"),
        ("library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("localhost/app", "localhost/app", "localhost/app"),
        ("localhost:5000/app:v1", "localhost:5000/app:v1", "localhost:5000/app:v1"),
        ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b"),
        ("[::1]:5000/app", "[::1]:5000/app", "[::1]:5000/app"),
        ("example.com/library/app", "example.com/library/app", "example.com/library/app"),
        ("UPPER/app", "UPPER/app", "UPPER/app"),
        ("quay.io/a__b/c--d.e_f", "quay.io/a__b/c--d.e_f", "quay.io/a__b/c--d.e_f"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", f"busybox@{DIGEST}"),
        (f"busybox:x@{DIGEST}", f"docker.io/library/busybox:x@{DIGEST}", f"busybox:x@{DIGEST}"),
        ("sha256:latest", "docker.io/library/sha256:latest", "sha256:latest"),
        (f"a:{'t' * 128}", f"docker.io/library/a:{'t' * 128}", f"a:{'t' * 128}"),
        (HEX[:63], f"docker.io/library/{HEX[:63]}", HEX[:63]),
    ],
)
def test_familiar_and_canonical_names_are_two_forms_of_one(text: str, canonical: str, familiar: str) -> None:
    parsed = parse_reference(text)
    assert (parsed.canonical(), parsed.familiar()) == (canonical, familiar)
    assert parse_reference(canonical) == parse_reference(familiar) == parsed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid reference format"),
        ("Foo", "invalid reference format: repository name (library/Foo) must be lowercase"),
        ("Foo:tag", "invalid reference format: repository name (library/Foo) must be lowercase"),
        ("user/Foo", "invalid reference format: repository name (user/Foo) must be lowercase"),
        ("localhost:5000/Foo", "invalid reference format: repository name (Foo) must be lowercase"),
        (HEX, f"invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings"),
        (":tag", "invalid reference format"),
        ("a:", "invalid reference format"),
        ("a:-x", "invalid reference format"),
        (f"a:{'t' * 129}", "invalid reference format"),
        ("a..b", "invalid reference format"),
        ("a_", "invalid reference format"),
        ("-a", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("/a", "invalid reference format"),
        ("a/", "invalid reference format"),
        ("a b", "invalid reference format"),
        ("a\n", "invalid reference format"),
        ("../a", "invalid reference format"),
        ("a/../b", "invalid reference format"),
        ("http://example.com/a", "invalid reference format"),
        ("é", "invalid reference format"),
        ("a:é", "invalid reference format"),
        ("a@sha256:1234", "invalid reference format"),
        (f"a@sha256:{HEX}00", "invalid checksum digest length"),
        (f"a@md5:{'0' * 32}", "unsupported digest algorithm"),
        ("a" * 248, "docker.io"),
        ("a" * 256, "repository name must not be more than 255 characters"),
    ],
)
def test_a_bad_name_is_refused_with_dockers_text(text: str, message: str) -> None:
    if message == "docker.io":
        assert parse_reference(text[:247]).domain == message
        return
    with pytest.raises(InvalidArgument) as caught:
        parse_reference(text)
    assert str(caught.value) == message


def test_latest_is_the_default_only_when_nothing_else_is_said() -> None:
    assert parse_reference("a").with_default_tag().tag == "latest"
    assert parse_reference("a:x").with_default_tag().tag == "x"
    assert parse_reference(f"a@{DIGEST}").with_default_tag().tag is None


def test_pinning_drops_the_tag() -> None:
    pinned = parse_reference("a:x").with_digest(Digest.parse(DIGEST))
    assert pinned.familiar() == f"a@{DIGEST}"


@pytest.mark.parametrize(
    ("repository", "tag", "message"),
    [
        ("sha256", None, "refusing to create an ambiguous tag using digest algorithm as name"),
        (f"a@{DIGEST}", None, "refusing to create a tag with a digest reference"),
        ("a", "b:c", "invalid tag format"),
        ("A", "b", "invalid reference format: repository name (library/A) must be lowercase"),
    ],
)
def test_names_that_may_not_become_tags(repository: str, tag: str | None, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_tag_target(repository, tag)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("repository", "tag", "familiar"), [("a", None, "a:latest"), ("a", "v1", "a:v1"), ("a:v0", None, "a:v0")]
)
def test_the_target_of_a_tag(repository: str, tag: str | None, familiar: str) -> None:
    assert parse_tag_target(repository, tag).familiar() == familiar


@pytest.mark.parametrize("text", ["..", "a/../b", "a/_links", "_catalog", "a/.b", "A", "", "a" * 256, "a/"])
def test_a_repository_name_never_looks_like_a_path_of_the_registry(text: str) -> None:
    assert not is_repository(text)


@pytest.mark.parametrize("text", ["", ".x", "-x", "a/b", "..", "a\n", "a" * 129])
def test_a_tag_is_never_a_path(text: str) -> None:
    assert not is_tag(text)
