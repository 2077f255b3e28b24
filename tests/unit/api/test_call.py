"""Docker's rules for queries and bodies: clients of ten years rely on every one of them."""

from __future__ import annotations

import pytest

from bulkhead.api.call import Pace, check_content_type, integer, parse_filters, parse_json
from bulkhead.api.schema.create import CreateBody
from bulkhead.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", {}),
        ("null", {}),
        ("{}", {}),
        ('{"label":["a=b","c"]}', {"label": ("a=b", "c")}),
        ('{"label":{"a=b":true,"c":true}}', {"label": ("a=b", "c")}),
        ('{"label":{"a=b":true,"c":false}}', {"label": ("a=b",)}),
    ],
)
def test_both_forms_of_filters_are_read(text: str, meant: dict[str, tuple[str, ...]]) -> None:
    assert parse_filters(text, {"label"}) == meant


@pytest.mark.parametrize(
    "text", ["{", "[]", "1", '{"label":"a"}', '{"label":[1]}', '{"label":{"a":1}}', '{"nosuch":["a"]}']
)
def test_bad_filters_are_the_clients_fault(text: str) -> None:
    with pytest.raises(InvalidArgument, match="nvalid filter"):
        parse_filters(text, {"label"})


@pytest.mark.parametrize("value", ["application/json", "application/json; charset=utf-8", " Application/JSON "])
def test_json_content_types_are_accepted(value: str) -> None:
    check_content_type(value)


def test_other_content_type_is_refused_in_dockers_words() -> None:
    words = r"^unsupported Content-Type header \(text/plain\): must be 'application/json'$"
    with pytest.raises(InvalidArgument, match=words):
        check_content_type("text/plain")


def test_missing_content_type_is_malformed() -> None:
    with pytest.raises(InvalidArgument, match="malformed Content-Type header"):
        check_content_type("")


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b'{"Image":1}',
        b'{"Env":"A=b"}',
        b'{"HostConfig":{"Memory":"1g"}}',
        b'{"HostConfig":{"Memory":99999999999999999999}}',
        b'{"StopTimeout":1.5}',
        b'{"Labels":{"a":1}}',
        b'{"Cmd":[1]}',
        b"[" * 100_000,
        b'{"Image":"\xff"}',
    ],
)
def test_malformed_and_mistyped_bodies_are_the_clients_fault(data: bytes) -> None:
    with pytest.raises(InvalidArgument, match="invalid JSON"):
        parse_json(data, CreateBody)


def test_what_follows_the_body_is_the_clients_fault() -> None:
    with pytest.raises(InvalidArgument, match=r"^unexpected content after JSON$"):
        parse_json(b'{"Image":"x"} {}', CreateBody)


def test_null_means_not_said_and_unknown_keys_are_ignored() -> None:
    body = parse_json(b'{"Image":"x","Cmd":null,"Env":null,"Nosuch":{"a":1},"HostConfig":null}', CreateBody)
    assert (body.Image, body.Cmd, body.Env, body.HostConfig) == ("x", None, None, None)


@pytest.mark.parametrize(("text", "meant"), [("10", 10), ("-1", -1), ("+3", 3)])
def test_integers_are_decimal(text: str, meant: int) -> None:
    assert integer(text) == meant


@pytest.mark.parametrize("text", ["x", "1.5", "1e3", " 1", "٣", "9" * 30])
def test_what_is_no_integer_gets_gos_text(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid syntax"):
        integer(text)


def test_a_body_has_its_time_again_when_it_gets_on() -> None:
    pace = Pace(10.0, 1000)
    for _ in range(50):
        pace.note(9.0, 1000)
        assert pace.left == 10.0


def test_a_body_that_comes_byte_by_byte_uses_its_time_up() -> None:
    pace = Pace(10.0, 1000)
    for second in range(1, 11):
        pace.note(1.0, 1)
        assert pace.left == 10.0 - second
