"""Lines of the log file to what a client gets."""

from __future__ import annotations

import asyncio
import json
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bulkhead.api.logs import LogReader, LogRequest, Renderer, fixed_width
from bulkhead.api.schema.times import SECOND
from bulkhead.api.streams import STDERR, STDOUT, frame
from tests.support.eventually import eventually

MOMENT = 1_700_000_000 * SECOND
STAMP = "2023-11-14T22:13:20.5Z"


def line(log: str = "x\n", stream: str = "stdout", time: str = STAMP, **more: object) -> bytes:
    return json.dumps({"log": log, "stream": stream, "time": time, **more}).encode() + b"\n"


def test_streams_are_framed_in_order() -> None:
    lines = line("out\n") + line("err\n", "stderr") + line("ä\n")
    expected = frame(STDOUT, b"out\n") + frame(STDERR, b"err\n") + frame(STDOUT, "ä\n".encode())
    assert Renderer(LogRequest()).render(lines) == expected


def test_only_the_wanted_stream_is_sent() -> None:
    lines = line("out\n") + line("err\n", "stderr")
    assert Renderer(LogRequest(stdout=False)).render(lines) == frame(STDERR, b"err\n")


def test_terminals_are_not_framed() -> None:
    assert Renderer(LogRequest(framed=False)).render(line("a\r\n") + line("b\r\n")) == b"a\r\nb\r\n"


def test_timestamps_have_nine_digits() -> None:
    shown = Renderer(LogRequest(framed=False, timestamps=True)).render(line("a\n"))
    assert shown == b"2023-11-14T22:13:20.500000000Z a\n"


def test_details_are_sorted_and_encoded() -> None:
    shown = Renderer(LogRequest(framed=False, details=True)).render(line("a\n", attrs={"b": "x y", "a": "1"}))
    assert shown == b"a=1,b=x+y a\n"


def test_bytes_that_were_kept_stand_for_what_was_lost() -> None:
    kept = line("\ufffd\ufffd\n", raw="//4K")
    assert Renderer(LogRequest(framed=False)).render(kept) == b"\xff\xfe\n"
    shown = Renderer(LogRequest(framed=False, timestamps=True)).render(kept)
    assert shown == b"2023-11-14T22:13:20.500000000Z \xff\xfe\n"


@pytest.mark.parametrize(("since", "shown"), [(MOMENT, True), (MOMENT + SECOND // 2, True), (MOMENT + SECOND, False)])
def test_since_includes_its_moment(since: int, shown: bool) -> None:
    assert bool(Renderer(LogRequest(since=since)).render(line())) is shown


def test_until_ends_the_stream_at_the_first_later_line() -> None:
    renderer = Renderer(LogRequest(framed=False, until=MOMENT + SECOND))
    late = line("late\n", time="2023-11-14T22:13:22Z")
    assert renderer.render(line("a\n") + late + line("b\n")) == b"a\n"
    assert renderer.done


def test_damaged_lines_cost_only_themselves() -> None:
    lines = line("a\n") + b'{"log":"trunc\n' + b"\xff\xfe\n" + b"\n" + b'{"log":5}\n' + line("b\n")
    assert Renderer(LogRequest(framed=False)).render(lines) == b"a\nb\n"


def test_unknown_streams_and_keys_are_passed_over() -> None:
    lines = line("a\n", "stdin") + line("b\n", extra=[1, {"x": None}])
    assert Renderer(LogRequest(framed=False)).render(lines) == b"b\n"


@pytest.mark.parametrize(
    ("stamp", "wide"),
    [
        ("2023-11-14T22:13:20Z", "2023-11-14T22:13:20.000000000Z"),
        ("2023-11-14T22:13:20.123456789Z", "2023-11-14T22:13:20.123456789Z"),
        ("2023-11-14T22:13:20.12Z", "2023-11-14T22:13:20.120000000Z"),
    ],
)
def test_stamps_are_widened_to_compare(stamp: str, wide: str) -> None:
    assert fixed_width(stamp) == wide


class SlowCursor:
    """Of a log on a disk that takes its time; a read that ends when it is closed has lost its file to others."""

    def __init__(self) -> None:
        self.reads, self.goes_on = threading.Event(), threading.Event()
        self.closed = False
        self.closed_under_a_read = False

    def read(self) -> bytes:
        self.reads.set()
        self.goes_on.wait()
        self.closed_under_a_read = self.closed
        return b""

    def close(self) -> None:
        self.closed = True


async def test_a_log_is_not_closed_under_a_thread_that_reads_it() -> None:
    """Its number would be another file's, whose bytes the thread takes away. Its client has left meanwhile."""
    cursor = SlowCursor()
    reader = LogReader(cast(Any, None), cast(Any, None), lambda *_: cursor)

    async def read() -> None:
        async with reader.opened(cast(Any, SimpleNamespace(log_path="log")), LogRequest()) as blocks:
            await anext(blocks)

    client = asyncio.create_task(read())
    try:
        await eventually(cursor.reads.is_set)
        client.cancel()
        await asyncio.wait([client])
        assert not cursor.closed
    finally:
        cursor.goes_on.set()
    await eventually(lambda: cursor.closed)
    assert not cursor.closed_under_a_read
