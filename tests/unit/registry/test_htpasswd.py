"""Passwords: what bcrypt is asked, and how often (battery H29)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.registry import htpasswd
from bulkhead.registry.htpasswd import Users

COST = 5


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hashes that passwords were measured against."""
    seen: list[str] = []
    real = htpasswd._matches

    def matches(password: str, hashed: str) -> bool:
        seen.append(hashed)
        return real(password, hashed)

    monkeypatch.setattr(htpasswd, "_matches", matches)
    return seen


@pytest.fixture
def users(tmp_path: Path) -> Iterator[Users]:
    lines = [f"{user}:{bcrypt.hashpw(word, bcrypt.gensalt(COST)).decode()}" for user, word in PASSWORDS.items()]
    (tmp_path / "htpasswd").write_text("\n".join(lines))
    users = Users(tmp_path / "htpasswd")
    yield users
    users.close()


PASSWORDS = {"alice": b"secret", "long": b"x" * 72, "umlaut": "pässwörd".encode()}


async def test_unknown_users_cost_what_known_ones_do(users: Users, asked: list[str]) -> None:
    """One hash of the same cost either way, so that the time tells nothing."""
    assert not await users.verify("nobody", "secret")
    assert not await users.verify("alice", "wrong")
    assert [hashed[4:6] for hashed in asked] == ["05", "05"]


async def test_a_right_password_is_measured_once_and_a_wrong_one_each_time(users: Users, asked: list[str]) -> None:
    answers = await asyncio.gather(*(users.verify("alice", "secret") for _ in range(20)))
    assert (all(answers), len(asked)) == (True, 1)
    assert await users.verify("alice", "secret")
    assert len(asked) == 1
    for _ in range(2):
        assert not await users.verify("alice", "wrong")
    assert len(asked) == 3


async def test_one_who_stops_waiting_does_not_stop_the_others(users: Users) -> None:
    first = asyncio.create_task(users.verify("alice", "secret"))
    await asyncio.sleep(0)
    second = asyncio.create_task(users.verify("alice", "secret"))
    await asyncio.sleep(0)
    second.cancel()
    assert await first


async def test_one_who_stops_asking_leaves_an_answer_behind(users: Users) -> None:
    first = asyncio.create_task(users.verify("alice", "secret"))
    await asyncio.sleep(0)
    second = asyncio.create_task(users.verify("alice", "secret"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second


@pytest.mark.parametrize(
    ("user", "password", "right"),
    [
        ("long", "x" * 72, True),
        ("long", "x" * 100, True),  # bcrypt reads no further, nor does Apache
        ("long", "x" * 71, False),
        ("umlaut", "pässwörd", True),
        ("umlaut", "password", False),
        ("alice", "secret\0", False),
        ("alice", "", False),
        ("", "", False),
    ],
)
async def test_odd_passwords(users: Users, user: str, password: str, right: bool) -> None:
    assert await users.verify(user, password) is right


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a b:x", b"alice:$2y$99$" + b"a" * 53])
def test_files_that_are_none_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        htpasswd.parse(data)
