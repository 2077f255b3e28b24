"""The one-line logger of processes that import next to nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

from bulkhead.plainlog import log_line, timestamp


def test_a_line_has_the_shape_of_the_services_lines(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+b") as file:
        log_line(file.fileno(), "info", "started", service="shim", request_id="ab", path=tmp_path)
        file.seek(0)
        line = json.loads(file.read())
    assert list(line) == ["timestamp", "level", "pid", "event", "service", "request_id", "path"]
    assert (line["event"], line["pid"], line["path"]) == ("started", os.getpid(), str(tmp_path))


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    """A shim with a closed log goes on."""
    reader, writer = os.pipe()
    os.close(reader)
    log_line(writer, "info", "nobody reads")
    os.close(writer)
    log_line(writer, "info", "closed")


def test_time_is_utc_with_microseconds() -> None:
    assert timestamp(1.000002) == "1970-01-01T00:00:01.000002Z"
