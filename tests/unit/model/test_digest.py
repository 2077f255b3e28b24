"""Digests are parsed once; what they refuse, go-digest refuses with the same words."""

from __future__ import annotations

import hashlib

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.model.digest import Digest

HEX = "a" * 64


@pytest.mark.parametrize("text", [f"sha256:{HEX}", f"sha512:{'0' * 128}"])
def test_a_digest_prints_as_it_was_written(text: str) -> None:
    assert str(Digest.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "invalid checksum digest format"),
        (HEX, "invalid checksum digest format"),
        ("sha256:", "invalid checksum digest format"),
        (f":{HEX}", "invalid checksum digest format"),
        (f"SHA256:{HEX}", "invalid checksum digest format"),
        (f"sha256:{HEX}\n", "invalid checksum digest format"),
        (f"sha256:{HEX[:-1]}/", "invalid checksum digest format"),
        (f"sha256:{HEX[:-1]}é", "invalid checksum digest format"),
        (f"sha256:{HEX.upper()}", "invalid checksum digest format"),
        (f"sha256:{HEX[:-1]}g", "invalid checksum digest format"),
        (f"sha256:{HEX}a", "invalid checksum digest length"),
        (f"sha256:{HEX[1:]}", "invalid checksum digest length"),
        (f"sha512:{HEX}", "invalid checksum digest length"),
        (f"md5:{'a' * 32}", "unsupported digest algorithm"),
        (f"sha384:{'a' * 96}", "unsupported digest algorithm"),
    ],
)
def test_what_is_no_digest_is_refused_with_the_known_text(text: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{reason}$"):
        Digest.parse(text)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_the_digest_of_bytes_is_their_hash(algorithm: str) -> None:
    expected = hashlib.new(algorithm, b"content").hexdigest()
    digest = Digest.of(b"content", algorithm)
    hasher = digest.hasher()
    hasher.update(b"content")
    assert str(digest) == f"{algorithm}:{expected}" == str(Digest.from_hasher(algorithm, hasher))
    assert digest.short == expected[:12]
