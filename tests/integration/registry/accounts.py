"""Users, rights and the logins of clients, for tests of who may use a registry."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import urlencode

import bcrypt

from bulkhead.registry.admission import AccessTable
from tests.integration.registry.wire import Peer, Reply

# The least cost that bcrypt has: tests log in often.
COST = 4

RIGHTS = """
[groups]
builders = ["bob"]

[[rules]]
repositories = ["**"]
users = ["root"]
actions = ["*"]

[[rules]]
repositories = ["team/**"]
users = ["alice"]
actions = ["pull", "push"]

[[rules]]
repositories = ["base/*"]
users = ["*"]
groups = ["builders"]
actions = ["pull"]

[[rules]]
repositories = ["ci/*"]
groups = ["builders"]
actions = ["pull", "push", "delete"]

[[rules]]
repositories = ["public/**"]
users = ["anonymous"]
actions = ["pull", "push", "delete"]
"""


def htpasswd(path: Path, **passwords: str) -> Path:
    """Write an htpasswd file as an administrator's editor does: beside its place, then renamed."""
    lines = [
        f"{user}:{bcrypt.hashpw(word.encode(), bcrypt.gensalt(COST)).decode()}" for user, word in passwords.items()
    ]
    replace(path, "\n".join(lines) + "\n")
    return path


def replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text)
    temporary.rename(path)


def access(directory: Path, *, rights: bool = True, **settings: object) -> AccessTable:
    """Four users whose passwords are their names with an exclamation mark, and the rights above."""
    users = htpasswd(directory / "htpasswd", root="root!", alice="alice!", bob="bob!", carol="carol!")
    replace(directory / "rights.toml", RIGHTS)
    named = str(directory / "rights.toml") if rights else ""
    return AccessTable(htpasswd=str(users), rights=named, **settings)  # type: ignore[arg-type]


def basic(user: str, password: str | None = None) -> dict[str, str]:
    """The Authorization header of a user, with their right password if no other is named."""
    pair = f"{user}:{user + '!' if password is None else password}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def ask_token(peer: Peer, user: str, *scopes: str, **query: str) -> Reply:
    """What the token server answers to a user, to nobody when `user` is empty."""
    pairs = [("service", query.pop("service", "bulkhead-registry")), *query.items(), *(("scope", s) for s in scopes)]
    return await peer.ask("GET", f"/token?{urlencode(pairs)}", headers=basic(user) if user else {})


async def token(peer: Peer, user: str, *scopes: str) -> dict[str, str]:
    """The Authorization header with a fresh token."""
    reply = await ask_token(peer, user, *scopes)
    assert reply.status == 200, reply.body
    return bearer(reply.json["token"])
