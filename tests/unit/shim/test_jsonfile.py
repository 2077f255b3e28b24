from __future__ import annotations

import base64
import json
import random

import pytest

from bulkhead.nsexec import json_lines
from bulkhead.shim.jsonfile import PIECE, Encoder, escape, timestamp

NOW = 1_700_000_000_123_456_000
TIME = b"2023-11-14T22:13:20.123456Z"


def record(text: bytes, stream: bytes = b"stdout") -> bytes:
    return b'{"log":"' + text + b'","stream":"' + stream + b'","time":"' + TIME + b'"}\n'


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, b"1970-01-01T00:00:00Z"),
        (1_700_000_000_000_000_000, b"2023-11-14T22:13:20Z"),
        (1_700_000_000_000_000_001, b"2023-11-14T22:13:20.000000001Z"),
        (1_700_000_000_120_000_000, b"2023-11-14T22:13:20.12Z"),
        (1_700_000_000_999_999_999, b"2023-11-14T22:13:20.999999999Z"),
    ],
)
def test_times_are_gos_rfc3339nano(nanoseconds: int, text: bytes) -> None:
    assert timestamp(nanoseconds) == text


# What dockerd's jsonlog encoder makes of each: the contract with every reader of these files.
@pytest.mark.parametrize(
    ("raw", "escaped"),
    [
        (b"plain text ~ \x7f", b"plain text ~ \x7f"),
        (b'say "hi"', b'say \\"hi\\"'),
        (b"back\\slash", b"back\\\\slash"),
        (b'\\"', b'\\\\\\"'),
        (b"<a href='x'>&amp;", b"\\u003ca href='x'\\u003e\\u0026amp;"),
        (b"tab\tcr\rnul\0esc\x1b[0m bell\x07", b"tab\\u0009cr\\rnul\\u0000esc\\u001b[0m bell\\u0007"),
        ("héllo wörld 日本 🐋".encode(), "héllo wörld 日本 🐋".encode()),
        (b"\xe2\x80\xa8 \xe2\x80\xa9", b"\\u2028 \\u2029"),
        (b"\xef\xbf\xbd", b"\xef\xbf\xbd"),
        (b"\xff", b"\\ufffd"),
        (b"a\xc3", b"a\\ufffd"),
        (b"\xc3(", b"\\ufffd("),
        (b"\xe2\x82", b"\\ufffd\\ufffd"),
        (b"\xe2\x82A", b"\\ufffd\\ufffdA"),
        (b"\xf0\x9f\x90", b"\\ufffd\\ufffd\\ufffd"),
        (b"\xed\xa0\x80", b"\\ufffd\\ufffd\\ufffd"),
        (b"\xc0\x80", b"\\ufffd\\ufffd"),
        (b"\xf0\xe2\x80\xa8", b"\\ufffd\\u2028"),
        (b"\xf4\x90\x80\x80", b"\\ufffd\\ufffd\\ufffd\\ufffd"),
        (b'\xff"\\\xff', b'\\ufffd\\"\\\\\\ufffd'),
    ],
)
def test_bytes_are_escaped_as_docker_does(raw: bytes, escaped: bytes) -> None:
    assert escape(raw) == escaped
    assert Encoder("stdout").feed(raw + b"\n", NOW) == record(escaped + b"\\n")


@pytest.mark.parametrize(
    ("chunks", "records"),
    [
        ([b"a\nb\n"], [b"a\\n", b"b\\n"]),
        ([b"\n\n"], [b"\\n", b"\\n"]),
        ([b"par", b"tial", b" line\nnext\n"], [b"partial line\\n", b"next\\n"]),
        ([b"no end"], [b"no end"]),
        ([b"a\nno end"], [b"a\\n", b"no end"]),
        ([b"split \xe2\x82", b"\xac sign\n"], ["split € sign\\n".encode()]),
        ([b""], []),
    ],
)
def test_lines_however_they_are_read(chunks: list[bytes], records: list[bytes]) -> None:
    encoder = Encoder("stdout")
    written = b"".join(encoder.feed(chunk, NOW) for chunk in chunks) + encoder.finish(NOW)
    assert written == b"".join(record(text) for text in records)


@pytest.mark.parametrize(
    ("line", "pieces"),
    [
        (b"x" * (PIECE - 1) + b"\n", [PIECE]),
        (b"x" * PIECE + b"\n", [PIECE, 1]),
        (b"x" * (PIECE + 1) + b"\n", [PIECE, 2]),
        (b"x" * (3 * PIECE) + b"\n", [PIECE, PIECE, PIECE, 1]),
        (b"x" * (PIECE + 5), [PIECE, 5]),
        (b"a\n" + b"x" * (PIECE + 5) + b"\nb\n", [2, PIECE, 6, 2]),
    ],
)
def test_long_lines_come_in_pieces_of_16_kib(line: bytes, pieces: list[int]) -> None:
    encoder = Encoder("stderr")
    written = encoder.feed(line, NOW) + encoder.finish(NOW)
    logs = [json.loads(text)["log"] for text in written.splitlines()]
    assert [len(log) for log in logs] == pieces
    assert "".join(logs).encode() == line


def test_a_piece_never_cuts_a_character() -> None:
    for shift in range(4):
        text = "a" * shift + "🐋" * PIECE + "\n"
        written = Encoder("stdout").feed(text.encode(), NOW)
        assert "".join(json.loads(line)["log"] for line in written.splitlines()) == text


def test_bytes_that_are_no_text_are_cut_all_the_same() -> None:
    written = Encoder("stdout").feed(b"\x80" * (2 * PIECE) + b"\n", NOW)
    assert written.count(b"\\ufffd") == 2 * PIECE


def test_a_verbatim_log_loses_no_byte() -> None:
    """However it is cut; and what is text is written as ever."""
    source = random.Random(11)
    said = b"".join(
        source.choice((b"text\n", b"\r\n", "é\n".encode(), b"\xff\xfe\r\n", b"\xc3", b"\x80" * 20_000))
        for _ in range(60)
    )
    encoder, position, written = Encoder("stdout", verbatim=True), 0, b""
    while position < len(said):
        step = source.choice((1, 7, 100, 4096, 16_384, 100_000))
        written += encoder.feed(said[position : position + step], NOW)
        position += step
    written += encoder.finish(NOW)
    records = [json.loads(line) for line in written.splitlines()]
    kept = [base64.b64decode(each["raw"]) if "raw" in each else each["log"].encode() for each in records]
    assert b"".join(kept) == said
    assert all(("raw" in each) == ("\ufffd" in each["log"]) for each in records)


def test_however_it_is_cut_the_log_is_the_same_text() -> None:
    source = random.Random(7)
    for _ in range(40):
        line_sizes = [source.choice((0, 1, 5, 80, 500, PIECE - 1, PIECE, PIECE + 1, 40_000)) for _ in range(6)]
        alphabet = 'ab "\\<é日🐋\t'
        text = "".join("".join(source.choices(alphabet, k=size)) + "\n" for size in line_sizes).encode()
        encoder, position, written = Encoder("stdout"), 0, b""
        while position < len(text):
            step = source.choice((1, 7, 100, 4096, 16_384, 100_000))
            written += encoder.feed(text[position : position + step], NOW)
            position += step
        written += encoder.finish(NOW)
        assert "".join(json.loads(line)["log"] for line in written.splitlines()).encode() == text


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 1000])
def test_the_extension_escapes_every_ascii_byte_as_escape_does(size: int) -> None:
    source = random.Random(size)
    for alphabet in (bytes(range(0x20, 0x80)), bytes(range(0x80)), b"plain"):
        text = bytes(source.choices(alphabet, k=size)) + b"\n"
        expected = b"".join(b'{"log":"' + escape(line) + b"\\n|}\n" for line in text.split(b"\n")[:-1])
        assert json_lines(b"before\n" + text + b"behind", 7, 7 + len(text), b"|}\n") == expected


@pytest.mark.parametrize("position", [0, 127, 128, 300])
def test_the_extension_leaves_alone_what_is_not_ascii(position: int) -> None:
    text = bytearray(b"x" * 400 + b"\n")
    text[position] = 0x80
    assert json_lines(bytes(text), 0, len(text), b"") is None


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (0, 0), (2, 1), (0, 1), (0, 3), (0, 5)])
def test_the_extension_takes_whole_lines_only(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="whole lines"):
        json_lines(b"a\nb\n", start, end, b"")
