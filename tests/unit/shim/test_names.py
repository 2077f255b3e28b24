"""DNS packets and zones: what is asked, what is known, what is no question."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from bulkhead.shim import names
from bulkhead.shim.names import Zone


def query(name: str, kind: int = 1, flags: int = 0x0100) -> bytes:
    return struct.pack("!HHHHHH", 7, flags, 1, 0, 0, 0) + names.encode_name(name) + struct.pack("!HH", kind, 1)


@pytest.fixture
def zone(tmp_path: Path) -> Zone:
    hosts = [
        {"container": "a", "names": ["web", "abc123", "www"], "address": "10.0.0.2"},
        {"container": "b", "names": ["db", "www"], "address": "10.0.0.3"},
    ]
    (tmp_path / "net").write_text(json.dumps({"name": "App", "hosts": hosts}))
    about = {"networks": ["net"], "servers": ["192.0.2.53"], "links": {"storage": "db"}, "internal": False}
    (tmp_path / "me").write_text(json.dumps(about))
    return Zone(str(tmp_path), "me")


def test_a_question_is_parsed_and_its_end_known() -> None:
    asked = query("WeB.Example")
    assert names.parse(asked) == ("web.example", 1, len(asked))
    assert names.parse(asked + b"\0\0\x29") == ("web.example", 1, len(asked))


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\0" * 11,
        query("a", flags=0x8000),
        query("a", flags=0x2800),
        query("a")[:-5],
        query("a")[:12] + b"\xc0\x0c",
    ],
)
def test_what_is_no_question(bad: bytes) -> None:
    assert names.parse(bad) is None


@pytest.mark.parametrize("name", ["web", "WEB", "abc123", "web.app", "web.APP"])
def test_names_aliases_short_ids_and_the_network_s_own(zone: Zone, name: str) -> None:
    assert zone.addresses(name) == ["10.0.0.2"]


def test_one_alias_of_two_a_link_and_an_address(zone: Zone) -> None:
    assert zone.addresses("www") == ["10.0.0.2", "10.0.0.3"]
    assert zone.addresses("storage") == ["10.0.0.3"]
    assert zone.name_of("10.0.0.3") == "db.App"
    assert zone.addresses("nosuch") is None and zone.name_of("10.0.0.9") is None


def test_a_replaced_file_is_read_at_the_next_question(zone: Zone, tmp_path: Path) -> None:
    assert zone.addresses("new") is None
    hosts = [{"container": "c", "names": ["new"], "address": "10.0.0.4"}]
    (tmp_path / "next").write_text(json.dumps({"name": "App", "hosts": hosts}))
    (tmp_path / "next").rename(tmp_path / "net")
    assert zone.addresses("new") == ["10.0.0.4"] and zone.addresses("web") is None


def test_missing_and_broken_files_know_nothing(tmp_path: Path) -> None:
    (tmp_path / "me").write_bytes(b"{")
    assert Zone(str(tmp_path), "me").addresses("web") is None
    assert list(Zone(str(tmp_path), "nosuch").servers) == []


def test_an_answer_repeats_the_question() -> None:
    asked = query("web")
    made = names.reply(asked, [(1, bytes((10, 0, 0, 2)))])
    number, flags, questions, answers, *_ = struct.unpack_from("!HHHHHH", made)
    assert (number, questions, answers, flags & 0xF) == (7, 1, 1, 0) and flags & 0x8000
    assert made[12 : len(asked)] == asked[12:] and made.endswith(bytes((10, 0, 0, 2)))
