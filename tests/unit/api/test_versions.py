"""The window of API versions; clients show these texts to people."""

from __future__ import annotations

import pytest

from bulkhead.api import versions
from bulkhead.api.versions import Version
from bulkhead.errors import InvalidArgument


@pytest.mark.parametrize("text", ["1.24", "1.30", "1.41", "1.51"])
def test_versions_in_the_window_pass(text: str) -> None:
    versions.check(versions.parse(text))


def test_nine_is_older_than_twenty_four() -> None:
    assert versions.parse("1.9") < Version(1, 24)


def test_too_new_has_dockers_text() -> None:
    with pytest.raises(
        InvalidArgument, match=r"^client version 1\.99 is too new\. Maximum supported API version is 1\.51$"
    ):
        versions.check(Version(1, 99))


def test_too_old_has_dockers_text() -> None:
    text = (
        r"^client version 1\.10 is too old\. Minimum supported API version is 1\.24, "
        r"please upgrade your client to a newer version$"
    )
    with pytest.raises(InvalidArgument, match=text):
        versions.check(Version(1, 10))


@pytest.mark.parametrize("text", ["", ".", "1.", "1.2.3", "1.99999"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid API version"):
        versions.parse(text)


@pytest.mark.parametrize(
    ("asked", "client", "read"),
    [
        ("1.51", "docker-compose/1.29.2 docker-py/5.0.3 Linux/6.1", "1.41"),
        ("1.38", "docker-compose/1.29.2 docker-py/5.0.3 Linux/6.1", "1.38"),
        ("1.51", "docker-compose/2.40.0", "1.51"),
        ("1.51", "docker-sdk-python/7.1.0", "1.51"),
        ("1.51", "", "1.51"),
    ],
)
def test_compose_1_reads_no_version_that_came_after_it(asked: str, client: str, read: str) -> None:
    """It asks for the newest all the same, and made no changed container again for want of an image's old keys."""
    assert versions.readable(versions.parse(asked), client) == versions.parse(read)
