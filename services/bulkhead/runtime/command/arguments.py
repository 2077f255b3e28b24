"""Options as runc's command line takes them: `--name value`, `--name=value`, one dash or two.

An own parser, since argparse takes longer to import than a container to start, and since this contract
differs from it: a switch may be given as `--name=false`, one dash introduces long names as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bulkhead.errors import InvalidArgument

# An option is a switch, holds a text or a number, or may be repeated.
SWITCH, TEXT, NUMBER, LIST = "switch", "text", "number", "list"

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class Arguments:
    """The values of one verb, by the options' long names, and what stood beside them."""

    __slots__ = ("positional", "values")

    def __init__(self, values: dict[str, Any], positional: list[str]) -> None:
        self.values = values
        self.positional = positional

    def text(self, name: str) -> str:
        return str(self.values.get(name) or "")

    def switch(self, name: str) -> bool:
        return bool(self.values.get(name))

    def number(self, name: str) -> int:
        return int(self.values.get(name) or 0)

    def texts(self, name: str) -> list[str]:
        return list(self.values.get(name) or ())


class Options:
    """The options that a verb has: `{"bundle b": TEXT}`, short names behind the long one."""

    __slots__ = ("_kinds", "_long", "names")

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names
        self._kinds: dict[str, str] = {}
        self._long: dict[str, str] = {}
        for spelled, kind in names.items():
            long, *short = spelled.split()
            for name in (long, *short):
                self._long[name] = long
                self._kinds[name] = kind

    def parse(self, words: Sequence[str], *, mixed: bool) -> Arguments:
        """With `mixed`, options may follow what is none. InvalidArgument for an unknown one or a bad value."""
        pending, found = list(words), Arguments({}, [])
        while pending:
            word = pending.pop(0)
            if word == "--":
                found.positional.extend(pending)
                break
            if not word.startswith("-") or word == "-":
                found.positional.append(word)
                if not mixed:
                    found.positional.extend(pending)
                    break
                continue
            self._take(word, pending, found.values)
        return found

    def _take(self, word: str, pending: list[str], values: dict[str, Any]) -> None:
        name, equals, value = word.lstrip("-").partition("=")
        if name not in self._kinds:
            raise InvalidArgument(f"flag provided but not defined: -{name}")
        kind, long = self._kinds[name], self._long[name]
        if kind == SWITCH:
            values[long] = _boolean(name, value) if equals else True
            return
        if not equals:
            if not pending:
                raise InvalidArgument(f"flag needs an argument: -{name}")
            value = pending.pop(0)
        if kind == LIST:
            values.setdefault(long, []).append(value)
        else:
            values[long] = _integer(name, value) if kind == NUMBER else value


def _boolean(name: str, value: str) -> bool:
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise InvalidArgument(f'invalid boolean value "{value}" for -{name}')


def _integer(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise InvalidArgument(f'invalid value "{value}" for flag -{name}: not a number') from None
