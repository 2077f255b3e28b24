"""Failpoints between clone and exec: what is set is decided here, before the clone, and told to the core.

Each is passed once in a launch, so it counts launches. The core acts by itself, but for `stop`: its launcher stands
still then, and the stage with it. What a child does before it is the stage is on the trace before it is done.
"""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Mapping

from bulkhead import failpoints
from bulkhead.failpoints.grammar import Action, Term
from bulkhead.nsexec import plan as layout
from bulkhead.nsexec._nsexec import FAILPOINTS

_CHILD = "nsexec.child."
_OF_CONTAINERS = frozenset({"nsexec.stage.mounted", "nsexec.stage.pivoted"})
# enum failpoint_action in csrc/failpoints.h; above its four bits the errno or the milliseconds.
_ACTIONS = {Action.PRINT: 1, Action.KILL: 2, Action.ERROR: 3, Action.DELAY: 4, Action.STOP: 5}
_ACTION_BITS = 4


def arm(plan: bytes) -> tuple[bytes, Armed | None, bytes]:
    """The plan with what its stage shall suffer, and the words for the child; the plan alone when nothing is due."""
    builds = layout.builds(plan)
    terms = failpoints.taken(name for name in FAILPOINTS if builds or name not in _OF_CONTAINERS)
    if not terms:
        return plan, None, b""
    armed = Armed(terms)
    armed.begin()
    words = [_word(terms.get(name)) for name in FAILPOINTS]
    return layout.with_failpoints(plan, words), armed, struct.pack(f"={len(words)}I", *words)


class Armed:
    """What one launch shall suffer."""

    def __init__(self, terms: Mapping[str, Term]) -> None:
        self._terms = terms

    def begin(self) -> None:
        """The child is about to pass its own."""
        for name, term in self._terms.items():
            if name.startswith(_CHILD):
                failpoints.trace(name, term.action.value)
                if term.action is Action.STOP:
                    os.kill(os.getpid(), signal.SIGSTOP)
                if term.action in (Action.KILL, Action.ERROR):
                    return

    def passed(self, number: int) -> bool:
        """The stage says that it is there; whether it waits for us. ValueError when nothing is set there."""
        term = self._terms.get(FAILPOINTS[number]) if 0 <= number < len(FAILPOINTS) else None
        if term is None:
            raise ValueError(f"no failpoint {number}")
        failpoints.trace(FAILPOINTS[number], term.action.value)
        if term.action is not Action.STOP:
            return False
        os.kill(os.getpid(), signal.SIGSTOP)
        return True


def _word(term: Term | None) -> int:
    return 0 if term is None else _ACTIONS[term.action] | term.argument << _ACTION_BITS
