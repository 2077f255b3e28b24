"""Which cells are run. The whole is about six thousand; what covers it about seven hundred, and always the same:

every row by every column that applies, at least once; and every failpoint in every process on every row's way, at
least once, by whatever column.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from tests.survival.matrix.columns import COLUMNS, ONLY_FIRST, Column, Passed, Place, Way
from tests.survival.matrix.rows import ROWS

Cell: TypeAlias = tuple[str, Passed]
_Key: TypeAlias = tuple[str, Place]
_ORDER = {row: number for number, row in enumerate(ROWS)}


def whole(way: Way) -> list[Cell]:
    """Every column at every place where it can strike."""
    return [(name, passed) for name, column in COLUMNS.items() for passed in column.cells(way)]


def covering(row: str, way: Way) -> list[Cell]:
    """Those that the heading promises. Rows begin with different columns and places, so that all meet all."""
    turn = _ORDER[row]
    way = _in_order(way)
    places = {name: found for name, column in COLUMNS.items() if (found := _places(column, way))}
    left = {_key(passed) for passed in way.points}
    chosen: list[Cell] = []
    # Who has the least choice first: what they leave is for the others.
    for number, name in enumerate(sorted(places, key=lambda name: (len(places[name]), name))):
        fresh = [passed for passed in places[name] if _key(passed) in left] or places[name]
        passed = fresh[(turn + number) % len(fresh)]
        left.discard(_key(passed))
        chosen.append((name, passed))
    chosen += _rest(turn, sorted(left, key=str), places)
    return sorted(chosen, key=lambda cell: (list(COLUMNS).index(cell[0]), str(cell[1])))


def sample(row: str, way: Way, count: int, seed: int) -> list[Cell]:
    """At most `count` of those that `covering` leaves out: the same for the same way and seed."""
    covered = set(covering(row, way))
    left = [cell for cell in whole(_in_order(way)) if cell not in covered]
    return random.Random(f"{seed} {row}").sample(left, min(count, len(left)))


def lacking(way: Way) -> dict[str, str]:
    """Columns that have no cell in a row, and why."""
    return {name: column.lacking for name, column in COLUMNS.items() if not column.struck(way)}


def _in_order(way: Way) -> Way:
    """Not that of the trace, where now this process comes first, now that."""
    return replace(way, points=tuple(sorted(way.points, key=_place)))


def _rest(turn: int, left: Sequence[_Key], places: Mapping[str, Sequence[Passed]]) -> Iterator[Cell]:
    """A cell for each of `left`, by one column after the other; not by those that take half a minute."""
    for number, key in enumerate(left):
        able = [name for name in places if _is_quick(name) and any(_key(each) == key for each in places[name])]
        name = able[(turn + number) % len(able)]
        yield name, next(each for each in places[name] if _key(each) == key)


def _places(column: Column, way: Way) -> list[Passed]:
    return column.cells(way) if column.stride == ONLY_FIRST else column.struck(way)


def _place(passed: Passed) -> tuple[str, str, int]:
    return passed.place.value, passed.name, passed.number


def _key(passed: Passed) -> _Key:
    return passed.name, passed.place


def _is_quick(name: str) -> bool:
    return COLUMNS[name].stride != ONLY_FIRST and not COLUMNS[name].reboots
