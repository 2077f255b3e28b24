"""Who sent a request and what they may do; handlers that must know ask `callers.of(request)`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from aiohttp import web


class Action(StrEnum):
    """What can be done to a repository, by the names that token scopes have for it."""

    PULL = "pull"
    PUSH = "push"
    DELETE = "delete"


ALL = frozenset(Action)
READ = frozenset({Action.PULL})
WRITE = frozenset({Action.PULL, Action.PUSH})
NOTHING: frozenset[Action] = frozenset()


def _everything(_: str) -> frozenset[Action]:
    return ALL


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The sender of a request."""

    name: str = ""
    """The user's name; empty for one who did not say it."""
    address: str = ""
    """Where the request comes from: an IP address."""
    rights: Callable[[str], frozenset[Action]] = _everything
    """The actions that are allowed on a repository."""
    lists: bool = True
    """Whether the repositories may be listed, those that may be read."""

    @property
    def key(self) -> str:
        """Whom limits are counted for. A user's name begins with a letter that no address does."""
        return f"user {self.name}" if self.name else f"address {self.address}"

    def may(self, repository: str, *actions: Action) -> bool:
        """Whether all of `actions` are allowed on `repository`."""
        return self.rights(repository).issuperset(actions)

    def may_read(self, repository: str) -> bool:
        """Whether `repository` exists for this caller, to be listed, mounted from or pulled."""
        return Action.PULL in self.rights(repository)


_EVERYONE = Caller()
_KEY = web.RequestKey("caller", Caller)


def of(request: web.BaseRequest) -> Caller:
    """The sender of `request`; one who may do everything where nobody is asked who they are."""
    caller: Caller = request.get(_KEY, _EVERYONE)
    return caller


def mark(request: web.BaseRequest, caller: Caller) -> None:
    """Say who sent `request`."""
    request[_KEY] = caller
