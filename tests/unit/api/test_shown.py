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
