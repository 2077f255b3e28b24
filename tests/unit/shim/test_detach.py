from __future__ import annotations

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.shim.detach import DetachScanner, parse


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", b"\x10\x11"),
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("a", b"a"),
        ("ctrl-a,a,ctrl-@", b"\x01a\x00"),
        ("ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", b"\x1b\x1c\x1d\x1e\x1f"),
    ],
)
def test_key_names(text: str, keys: bytes) -> None:
    assert parse(text) == keys


@pytest.mark.parametrize("text", ["ctrl-1", "ctrl-", "ab", "ctrl-p,", ",", "é", "shift-a"])
def test_other_names_are_refused_with_dockers_words(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"Invalid escape keys .* provided"):
        parse(text)


@pytest.mark.parametrize(
    ("keys", "typed", "passed", "detached"),
    [
        (b"pq", [b"abc"], b"abc", False),
        (b"pq", [b"pq"], b"", True),
        (b"pq", [b"p", b"q"], b"", True),
        (b"pq", [b"abpqcd"], b"ab", True),
        (b"pq", [b"px"], b"px", False),
        (b"pq", [b"ppq"], b"p", True),
        (b"pq", [b"pp", b"x"], b"ppx", False),
        (b"q", [b"aq"], b"a", True),
        (b"aab", [b"aab"], b"", True),
    ],
)
def test_what_passes(keys: bytes, typed: list[bytes], passed: bytes, detached: bool) -> None:
    scanner = DetachScanner(keys)
    results = [scanner.feed(data) for data in typed]
    assert b"".join(result[0] for result in results) == passed
    assert results[-1][1] is detached
