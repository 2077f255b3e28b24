"""Names and ids of containers."""

from __future__ import annotations

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.model import ids, names


@pytest.mark.parametrize("text", ["web", "/web", "a.b-c_d", "0x", "A" * 200])
def test_good_names(text: str) -> None:
    assert names.normal(text) == text.removeprefix("/")


@pytest.mark.parametrize("text", ["", "a", "/", "//x", "-ab", ".ab", "a b", "a/b", "ä1", "ab\n", "web\x00"])
def test_bad_names_have_dockers_text(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        names.normal(text)
    assert str(caught.value) == f"Invalid container name ({text}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"


def test_generated_names_are_allowed_and_later_attempts_carry_a_digit() -> None:
    for _ in range(50):
        assert names.normal(names.random_name()).count("_") == 1
        assert names.random_name(1)[-1].isdigit()
    assert all(word.isalpha() and word.islower() for word in (*names.ADJECTIVES, *names.SURNAMES))


def test_new_id_avoids_taken_short_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["1" * 64, "a" * 64, "b" * 64])
    monkeypatch.setattr("os.urandom", lambda _: bytes.fromhex(next(drawn)))
    assert ids.new_id(frozenset({"a" * 12})) == "b" * 64, "all decimal and taken ones are passed over"


def test_prefixes() -> None:
    known = ["ab" * 32, "ac" * 32]
    assert ids.with_prefix("a", known) == known
    assert ids.with_prefix("ab", known) == known[:1]
    assert ids.with_prefix("ad", known) == []
    assert ids.with_prefix("ac" * 32, known) == known[1:]
    assert ids.with_prefix("A", known) == ()
    assert ids.with_prefix("", known) == ()
    assert ids.is_full("ab" * 32) and not ids.is_full("AB" * 32)
