"""The error vocabulary."""

from __future__ import annotations

from bulkhead.errors import LaunchFailed


def test_told_in_other_words_an_error_carries_what_it_did() -> None:
    """Edges answer by it: whether a program was not found is 400 and no 500, whoever tells of it."""
    failed = LaunchFailed("exec: no such file", step="exec", errno=2, exit_code=127)
    told = failed.told_as("cannot restart x")
    assert (type(told), str(told)) == (LaunchFailed, "cannot restart x")
    assert (told.step, told.errno, told.exit_code) == ("exec", 2, 127)
    assert str(failed) == "exec: no such file"
