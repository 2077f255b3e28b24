"""Detach keys, signals, set notation, events, execs, registry challenges."""

from __future__ import annotations

import pytest

from bulkhead.api.detach import check_keys
from bulkhead.api.errors import body_of, status_of
from bulkhead.api.ports.execs import InspectedExec
from bulkhead.api.ports.system import EngineEvent
from bulkhead.api.schema import events, execs
from bulkhead.api.schema.deltas import fitted
from bulkhead.api.schema.signals import check_signal
from bulkhead.api.schema.validation import parse_set
from bulkhead.api.versions import Version
from bulkhead.errors import (
    Conflict,
    DataLoss,
    Forbidden,
    InvalidArgument,
    LaunchFailed,
    NotFound,
    NotImplementedYet,
    NotModified,
    Unauthorized,
    Unavailable,
)
from bulkhead.model.execs import ExecSpec


@pytest.mark.parametrize("text", ["", "a", "ctrl-p,ctrl-q", "ctrl-@,x", "ctrl-],ctrl-_", "ctrl-A"])
def test_detach_keys(text: str) -> None:
    check_keys(text)


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-pp", "foo", "a,,b", "ctrl-1", "é"])
def test_bad_detach_keys(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^Invalid detach keys \("):
        check_keys(text)


@pytest.mark.parametrize("text", ["KILL", "SIGKILL", "kill", "9", "64", "RTMIN", "SIGRTMIN+3", "RTMAX-1"])
def test_signals(text: str) -> None:
    check_signal(text)


def test_a_signal_that_linux_has_not() -> None:
    with pytest.raises(InvalidArgument, match=r"^The linux daemon does not support signal 65$"):
        check_signal("65")


@pytest.mark.parametrize("text", ["FOO", "0", "-9", "SIG", "RTMIN+99", "9 ", "²"])
def test_bad_signals(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^Invalid signal: "):
        check_signal(text)


@pytest.mark.parametrize(("text", "meant"), [("0", {0}), ("0-2,5", {0, 1, 2, 5}), ("1,1", {1})])
def test_sets(text: str, meant: set[int]) -> None:
    assert parse_set(text) == meant


@pytest.mark.parametrize("text", ["", "a", "2-1", "1-", "0,", "-1", "999999"])
def test_bad_sets(text: str) -> None:
    with pytest.raises(ValueError):
        parse_set(text)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidArgument("x"), 400),
        (Unauthorized("x"), 401),
        (Forbidden("x"), 403),
        (NotFound("x"), 404),
        (Conflict("x"), 409),
        (NotModified("x"), 304),
        (NotImplementedYet("x"), 501),
        (Unavailable("x"), 503),
        (DataLoss("x"), 500),
        (LaunchFailed("x", exit_code=127), 400),
        (LaunchFailed("x", exit_code=126), 400),
        (LaunchFailed("x", exit_code=128), 500),
        (KeyError("x"), 500),
    ],
)
def test_each_error_has_its_status(error: Exception, status: int) -> None:
    assert status_of(error) == status


def test_error_bodies_are_not_html_escaped() -> None:
    assert body_of("<a> & b") == b'{"message":"<a> & b"}\n'


def test_container_events_have_the_keys_of_old_clients() -> None:
    event = EngineEvent(type="container", action="die", actor_id="c1", attributes={"image": "i"}, time=5 * 10**9 + 1)
    shown = events.message(event)
    assert (shown["status"], shown["id"], shown["from"]) == ("die", "c1", "i")
    assert (shown["time"], shown["timeNano"], shown["scope"]) == (5, 5 * 10**9 + 1, "local")
    assert "status" not in events.message(EngineEvent(type="network", action="connect"))


def test_exec_shows_null_until_it_ends() -> None:
    spec = ExecSpec(command=("sh", "-c", "x"), tty=True)
    shown = execs.inspected(InspectedExec(id="e", container_id="c", spec=spec, running=True, started=True))
    assert shown["ExitCode"] is None
    assert shown["ProcessConfig"] == {"tty": True, "entrypoint": "sh", "arguments": ["-c", "x"], "privileged": False}


def test_exec_needs_a_command() -> None:
    with pytest.raises(InvalidArgument, match=r"^No exec command specified$"):
        execs.spec_of(execs.ExecBody(Cmd=[]))


@pytest.mark.parametrize(("version", "there"), [(Version(1, 49), True), (Version(1, 50), False)])
def test_old_clients_find_the_fields_of_a_bridge_s_filter_in_info(version: Version, there: bool) -> None:
    shown = fitted("info", {}, version)
    assert ("BridgeNfIptables" in shown, "BridgeNfIp6tables" in shown) == (there, there)
