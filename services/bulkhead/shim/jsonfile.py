r"""Docker's json-file encoding, a chunk at a time: `{"log":"...\n","stream":"stdout","time":"..."}` per line.

Bytes are escaped as dockerd does (daemon/logger/jsonfilelog/jsonlog): `\\ \" \n \r`, other controls
and `< > &` as \u00XX, U+2028/2029 as \u202X, each byte that is not UTF-8 as \ufffd. Lines longer than
16 KiB come in pieces without the trailing \n. All lines of one chunk bear the time of its reading.

Docker's other drivers keep bytes as they are. Their files are nobody's but the engine's, so that here they are the
same, and a line that is not UTF-8 also has a member `raw`, its bytes in base64.
"""

from __future__ import annotations

import binascii
import codecs
import time
from collections.abc import Callable

from bulkhead.nsexec import json_lines

PIECE = 16 << 10
_PLAIN = bytes(byte for byte in range(0x20, 0x80) if byte not in b'"\\<>&') + b"\n"
# The backslash first, since the others bring backslashes of their own.
_COMMON = (
    (b"\\", b"\\\\"),
    (b'"', b'\\"'),
    (b"\r", b"\\r"),
    (b"\t", b"\\u0009"),
    (b"\x1b", b"\\u001b"),
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
)
_COMMON_BYTES = b"".join(plain for plain, _ in _COMMON)
_SEPARATORS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
_INVALID = "bulkhead.jsonfile"


def _replace_invalid(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\\ufffd" * (error.end - error.start), error.end


codecs.register_error(_INVALID, _replace_invalid)


def escape(data: bytes) -> bytes:
    """`data` as the inside of a JSON string, except that newlines are left as they are."""
    special = data.translate(None, _PLAIN)
    if not special:
        return data
    for plain, escaped in _COMMON:
        data = data.replace(plain, escaped)
    rest = special.translate(None, _COMMON_BYTES)
    if not rest:
        return data
    for byte in {byte for byte in rest if byte < 0x20}:
        data = data.replace(bytes((byte,)), b"\\u%04x" % byte)
    return data if rest.isascii() else _escape_text(data)


def _escape_text(data: bytes) -> bytes:
    for plain, escaped in _SEPARATORS:
        data = data.replace(plain, escaped)
    try:
        data.decode()
    except UnicodeDecodeError:
        return data.decode("utf-8", _INVALID).encode()
    return data


def timestamp(nanoseconds: int) -> bytes:
    """Unix nanoseconds as RFC3339Nano in UTC: Go drops trailing zeros of the fraction."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    tail = f".{fraction:09d}".rstrip("0") if fraction else ""
    return f"{text}{tail}Z".encode()


class Encoder:
    """One stream of a container, from bytes as read to log records; each bears `attributes`, a JSON object, if any.

    `verbatim`: no byte is lost.
    """

    __slots__ = ("_carry", "_lines", "_stream", "_told")

    def __init__(self, stream: str, attributes: bytes = b"", *, verbatim: bool = False) -> None:
        self._told: Callable[[bytes], bytes] = _verbatim if verbatim else escape
        self._lines = _verbatim_lines if verbatim else _lines
        self._stream = stream.encode() + b'",' + (b'"attrs":' + attributes + b"," if attributes else b"")
        self._carry = b""

    @property
    def line(self) -> bytes:
        """What was fed and is no record yet."""
        return self._carry

    def resume(self, line: bytes) -> None:
        """Go on as the encoder whose `line` this was."""
        self._carry = line

    def feed(self, chunk: bytes, now: int) -> bytes:
        """The records that `chunk`, read at `now` (Unix nanoseconds), completes."""
        data = self._carry + chunk if self._carry else chunk
        suffix = b'","stream":"%b"time":"%b"}\n' % (self._stream, timestamp(now))
        records: list[bytes] = []
        start = position = 0
        while len(data) - position >= PIECE:
            newline = data.rfind(b"\n", position, position + PIECE)
            if newline >= 0:
                position = newline + 1
                continue
            if position > start:
                records.append(self._lines(data, start, position, suffix))
            start = position
            position = _piece_end(data, start)
            records.append(b'{"log":"' + self._told(data[start:position]) + suffix)
            start = position
        position = max(position, data.rfind(b"\n", position) + 1)
        if position > start:
            records.append(self._lines(data, start, position, suffix))
        self._carry = data[position:]
        return records[0] if len(records) == 1 else b"".join(records)

    def finish(self, now: int) -> bytes:
        """The last line if it lacks its newline: the stream has ended."""
        data, self._carry = self._carry, b""
        if not data:
            return b""
        return b'{"log":"%b","stream":"%b"time":"%b"}\n' % (self._told(data), self._stream, timestamp(now))


def _lines(data: bytes, start: int, end: int, suffix: bytes) -> bytes:
    """Records of the whole lines data[start:end]. Few programs write what is not ASCII."""
    return json_lines(data, start, end, suffix) or _lines_of_text(data[start:end], suffix)


def _lines_of_text(data: bytes, suffix: bytes) -> bytes:
    """The same in whatever encoding; `data` ends with a newline."""
    escaped = escape(data)
    end = b"\\n" + suffix
    return b"".join((b'{"log":"', escaped[:-1].replace(b"\n", end + b'{"log":"'), end))


def _verbatim_lines(data: bytes, start: int, end: int, suffix: bytes) -> bytes:
    """Those that lose nothing."""
    found = json_lines(data, start, end, suffix)
    if found is not None:
        return found
    lines = data[start:end]
    if _is_text(lines):
        return _lines_of_text(lines, suffix)
    each = (line + b"\n" for line in lines[:-1].split(b"\n"))
    return b"".join(b'{"log":"' + _verbatim(line).replace(b"\n", b"\\n") + suffix for line in each)


def _verbatim(data: bytes) -> bytes:
    """`escape`, and of what is not text the bytes beside it."""
    raw = b"" if _is_text(data) else b'","raw":"' + binascii.b2a_base64(data, newline=False)
    return escape(data) + raw


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _piece_end(data: bytes, start: int) -> int:
    """Where a piece ends: PIECE bytes on, or up to three fewer to keep a UTF-8 sequence whole."""
    end = start + PIECE
    for back in range(1, 4):
        byte = data[end - back]
        if byte < 0x80:
            return end
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return end - back if needed > back else end
    return end
