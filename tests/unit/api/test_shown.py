"""Answers that are kept as bytes: shown once for each object, however often it is asked for."""

from __future__ import annotations

from bulkhead.api.shown import Shown


def test_shown_once_for_each_object() -> None:
    shown, calls = Shown(2), []

    def show() -> dict[str, int]:
        calls.append(1)
        return {"n": len(calls)}

    first, second = object(), object()
    assert shown.of("a", first, show) == shown.of("a", first, show) == b'{"n":1}\n'
    assert shown.of("a", second, show) == b'{"n":2}\n'
    assert shown.of("b", second, show) == b'{"n":3}\n', "another version of the same"
    assert shown.of("a", second, show) == b'{"n":2}\n'
    assert shown.of("c", first, show) == b'{"n":4}\n'
    assert shown.of("a", second, show) == b'{"n":2}\n', "asked for after b"
    assert shown.of("b", second, show) == b'{"n":5}\n', "of three one is too many"


def test_what_changes_beside_it_is_told_in_its_place_and_not_kept() -> None:
    shown, calls = Shown(2), []

    def show() -> dict[str, object]:
        calls.append(1)
        return {"Id": "a", "ExecIDs": None, "Name": '"ExecIDs":null'}

    found = object()
    assert shown.of("a", found, show, {"ExecIDs": ["e"]}) == b'{"Id":"a","ExecIDs":["e"],"Name":"\\"ExecIDs\\":null"}\n'
    assert shown.of("a", found, show) == b'{"Id":"a","ExecIDs":null,"Name":"\\"ExecIDs\\":null"}\n'
    assert len(calls) == 1
