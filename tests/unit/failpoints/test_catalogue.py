"""Every failpoint in the list is a place in the code, once; every place is in the list."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import bulkhead
from bulkhead.failpoints.catalogue import POINTS
from bulkhead.nsexec._nsexec import FAILPOINTS

SOURCE = Path(bulkhead.__file__).parent


def places() -> Iterator[str]:
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "failpoints.hit":
                assert isinstance(node.args[0], ast.Constant), f"{path}: a name must be readable where it stands"
                yield str(node.args[0].value)


def test_names_and_places_are_the_same() -> None:
    found = Counter([*places(), *FAILPOINTS])
    assert {name: count for name, count in found.items() if count > 1} == {}
    assert set(found) == set(POINTS)
