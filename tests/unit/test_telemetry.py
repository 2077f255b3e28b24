"""The request id: adopted when it is harmless, made when it is not."""

from __future__ import annotations

import re
import subprocess
import sys

import msgspec
import pytest

from bulkhead import telemetry

PROGRAM = """
import asyncio, logging, structlog
from bulkhead import telemetry
telemetry.configure("bulkhead-test")
telemetry.bind_request_id("abc")
structlog.get_logger().info("one", path=__import__("pathlib").Path("/x"))
structlog.get_logger().debug("unseen")
logging.getLogger("lib").warning("two %s", 2)
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger().exception("three")
async def serve():
    telemetry.line_soon(logging.INFO, "four", status=200)
    telemetry.line_soon(logging.DEBUG, "unseen")
asyncio.run(serve())
"""


@pytest.mark.parametrize("sent", ["a", "0123456789abcdef", "A.b_c-9", "x" * 64])
def test_a_callers_id_is_kept(sent: str) -> None:
    assert telemetry.bind_request_id(sent) == sent == telemetry.request_id()


@pytest.mark.parametrize("sent", [None, "", "x" * 65, "a b", "a\nb", 'a"b', "é"])
def test_an_ill_formed_id_is_replaced(sent: str | None) -> None:
    """It ends in logs and in other processes' headers: nothing of a stranger's may travel there."""
    assert re.fullmatch("[0-9a-f]{16}", telemetry.bind_request_id(sent))


def test_every_source_writes_one_shape() -> None:
    """structlog's and logging's lines are read by one program."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    lines = [msgspec.json.decode(line, type=dict[str, object]) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["one", "two 2", "three", "four"]
    assert [line["level"] for line in lines] == ["info", "warning", "error", "info"]
    assert list(lines[3]) == [*list(lines[0])[:-1], "status"]
    assert {line["service"] for line in lines} == {"bulkhead-test"}
    assert {line["request_id"] for line in lines} == {"abc"}
    assert "ZeroDivisionError" in str(lines[2]["exception"])


def test_what_cannot_be_told_is_no_error_of_who_tells_it() -> None:
    """The disk of the log is full: a request must not fail because its line cannot be written."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run([sys.executable, "-c", PROGRAM + "print('done')"], stdout=subprocess.PIPE, stderr=full)
    assert done.stdout == b"done\n"
