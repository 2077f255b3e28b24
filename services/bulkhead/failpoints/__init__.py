"""Places where a process can be made to fail on purpose, by name: before and after what changes the host or records.

    failpoints.hit("manager.start.plugged")      # in the code: nothing, unless somebody has set it

What is set comes from the environment (BULKHEAD_FAILPOINTS) when a process starts, and from the file
`<run>/failpoints/set`, which root alone may write: read when a process starts, when a shim is given its container,
and upon SIGUSR2. `bulkhead failpoints` writes it. The grammar is in `grammar`, the list of all names in `catalogue`.

    <run>/failpoints/        0700
      set                    what is set, in the grammar
      trace                  a line for each that did something: pid, name, action; and for each process that read `set`
      <name>.<number>        how often a counted one was hit, by all processes of the installation together

Set to nothing, `hit` is one look into an empty dictionary.
"""
# ruff: noqa: PTH123 -- a forked shim's first use of pathlib costs a quarter of a megabyte of its own

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable

# As typing has it, without loading typing into a runtime command that lives for milliseconds.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from bulkhead.failpoints.grammar import Term

VARIABLE = "BULKHEAD_FAILPOINTS"
DIRECTORY = "failpoints"
SET, TRACE = "set", "trace"
_LIMIT = 1 << 20

_set: dict[str, tuple[Term, ...]] = {}
_place = ""
_struck = False


def hit(name: str, failure: Callable[[OSError], Exception] | None = None) -> None:
    """Do what is set for `name`, if anything is.

    Raises OSError where the catalogue says that the place may fail; or what `failure` makes of it.
    """
    if name in _set:
        _act(name, failure)


def any_set() -> bool:
    return bool(_set)


def has_struck() -> bool:
    """Whether anything was ever done here on purpose: such a process is not what others are."""
    return _struck


def taken(names: Iterable[str]) -> dict[str, Term]:
    """What is due at `names`, for code that cannot ask on its way and acts by itself; each counts as hit."""
    global _struck
    due = {name: _due(name) for name in names if name in _set}
    found = {name: term for name, term in due.items() if term is not None}
    _struck = _struck or bool(found)
    return found


def listen(run: str) -> None:
    """Obey the installation in `run` from now on: read what is set there, and again upon SIGUSR2. Main thread.

    Raises InvalidArgument when the environment's setting is not in the grammar.
    """
    global _place
    _place = f"{run}/{DIRECTORY}"
    told = os.environ.get(VARIABLE, "")
    if told:
        set_to(told)
    signal.signal(signal.SIGUSR2, _told)
    refresh()


def refresh() -> None:
    """Read what is set, if the file is there, and if we listen at all."""
    if not _place:
        return
    try:
        fd = os.open(f"{_place}/{SET}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    with open(fd, encoding="utf-8") as file:
        text = file.read(_LIMIT)
    with contextlib.suppress(Exception):  # who wrote it has checked it; a process must not die of it
        set_to(text)


def set_to(text: str) -> None:
    """Have this process, and its forks, obey `text` and nothing else. Raises InvalidArgument."""
    # Not at the top: who is never told anything need not load it.
    from bulkhead.failpoints import grammar

    parsed = grammar.parse(text)
    _set.clear()
    _set.update(parsed)


def _told(*_: object) -> None:
    _set.clear()
    refresh()
    trace("-", "loaded")


def _act(name: str, failure: Callable[[OSError], Exception] | None) -> None:
    from bulkhead.failpoints.grammar import Action

    global _struck
    term = _due(name)
    if term is None:
        return
    _struck = True
    trace(name, term.action.value)
    match term.action:
        case Action.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        case Action.STOP:
            os.kill(os.getpid(), signal.SIGSTOP)
        case Action.DELAY:
            time.sleep(term.argument / 1000)
        case Action.ERROR:
            error = OSError(term.argument, os.strerror(term.argument))
            raise failure(error) if failure is not None else error


def _due(name: str) -> Term | None:
    """None for nothing."""
    from bulkhead.failpoints.grammar import Action, due

    terms = _set[name]
    # Beyond the counted ones no number matters: a name that is hit hundreds of times is not counted for ever.
    counted = sum(each.count or 0 for each in terms)
    term = due(terms, _number(name, counted))
    return None if term is None or term.action is Action.OFF else term


def _number(name: str, most: int) -> int:
    """How often `name` was hit before, by whatever process; `most` when it was that often or oftener."""
    number = 0
    while number < most:
        try:
            os.close(os.open(f"{_place}/{name}.{number}", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            number += 1
        except OSError:
            # The directory is gone: nobody wants anything of us any more.
            return 1 << 30
        else:
            return number
    return most


def trace(name: str, what: str) -> None:
    """Leave a line where one is wanted."""
    with contextlib.suppress(OSError):
        fd = os.open(f"{_place}/{TRACE}", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.write(fd, f"{os.getpid()} {name} {what}\n".encode())
        finally:
            os.close(fd)
