"""Users and their passwords: Apache's htpasswd file with bcrypt hashes (`htpasswd -B`)."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from bulkhead.content.blocking import Blocking
from bulkhead.errors import InvalidArgument
from bulkhead.registry.watched import Watched

# A password that was right is taken without another look for so long, in seconds.
CACHE_SECONDS = 60.0
CACHE_ENTRIES = 1024
# bcrypt reads no further; htpasswd and Apache cut there too.
MAX_PASSWORD = 72
# Cost 16 takes seconds; a file with more is a mistake or an attack on this machine.
MAX_COST = 16
WORKERS = 2
_HASH = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}", re.ASCII)
_USER = re.compile(r"[^\s:\x00-\x1f\x7f]{1,255}")


def parse(data: bytes) -> dict[str, str]:
    """User -> hash; raises InvalidArgument with the line's number, and never with the line."""
    users = {}
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError as error:
        raise InvalidArgument("it is not UTF-8") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        user, _, hashed = line.strip().partition(":")
        if not _USER.fullmatch(user):
            raise InvalidArgument(f"line {number}: not `user:hash`")
        match = _HASH.fullmatch(hashed)
        if match is None:
            raise InvalidArgument(f"line {number}: the hash of user {user!r} is not bcrypt (make it with htpasswd -B)")
        if not 4 <= int(match[1]) <= MAX_COST:
            raise InvalidArgument(f"line {number}: bcrypt cost {match[1]} is not between 4 and {MAX_COST}")
        users[user] = hashed
    return users


class Users:
    """Who there is, and whether a password is theirs. The file is read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._file = Watched(path, parse)
        self._blocking = Blocking(WORKERS)
        self._secret = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, float] = OrderedDict()
        self._checking: dict[bytes, asyncio.Task[bool]] = {}
        # What unknown users are measured against; one per cost, made when it is first wanted.
        self._decoys: dict[int, str] = {}

    def close(self) -> None:
        """Give up what is being asked; waits for what bcrypt is at."""
        for task in self._checking.values():
            task.cancel()
        self._blocking.close()

    def __contains__(self, user: str) -> bool:
        return user in self._file.value

    def stamp(self, user: str) -> str | None:
        """Changes when the user's password does; None for an unknown user. Tells nothing of the password."""
        hashed = self._file.value.get(user)
        return hashlib.sha256(f"{user}:{hashed}".encode()).hexdigest()[:32] if hashed is not None else None

    async def verify(self, user: str, password: str) -> bool:
        """Whether there is such a user with such a password; takes as long for one who does not exist."""
        users = self._file.value
        hashed = users.get(user)
        # The hash is part of the key: a changed password is asked for at once.
        key = hmac.digest(self._secret, f"{user}\0{password}\0{hashed}".encode(), "sha256")
        if self._right.get(key, 0.0) > time.monotonic():
            return True
        # Whoever comes with the same question meanwhile waits for the one answer, even if the first goes away.
        task = self._checking.get(key)
        if task is None:
            task = self._checking[key] = asyncio.create_task(self._check(key, users, hashed, password))
            task.add_done_callback(lambda _: self._checking.pop(key, None))
        return await asyncio.shield(task)

    async def _check(self, key: bytes, users: Mapping[str, str], hashed: str | None, password: str) -> bool:
        measured = hashed if hashed is not None else await self._decoy(users)
        right = await self._blocking.run(_matches, password, measured) and hashed is not None
        if right:
            self._remember(key)
        return right

    def _remember(self, key: bytes) -> None:
        self._right[key] = time.monotonic() + CACHE_SECONDS
        self._right.move_to_end(key)
        while len(self._right) > CACHE_ENTRIES:
            self._right.popitem(last=False)

    async def _decoy(self, users: Mapping[str, str]) -> str:
        """A hash as dear as those in the file, of no password."""
        cost = max((int(hashed[4:6]) for hashed in users.values()), default=10)
        if cost not in self._decoys:
            self._decoys[cost] = await self._blocking.run(_hash_of_nothing, cost)
        return self._decoys[cost]


def _matches(password: str, hashed: str) -> bool:
    import bcrypt  # half a megabyte, and few registries have users

    try:
        return bcrypt.checkpw(password.encode()[:MAX_PASSWORD], hashed.encode())
    except ValueError:
        # A password with NUL or a hash that only looks like one.
        return False


def _hash_of_nothing(cost: int) -> str:
    import bcrypt  # as above

    return bcrypt.hashpw(secrets.token_hex(32).encode(), bcrypt.gensalt(cost)).decode()
