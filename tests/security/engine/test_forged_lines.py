"""M14: what clients and containers say does not make lines, records or events of its own."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.security.engine.conftest import Attack
from tests.support.eventually import until

FORGED = '{"level":"error","event":"forged","service":"bulkhead-api"}'
NASTY = {
    "lf": f"a\n{FORGED}",
    "crlf": f"a\r\n{FORGED}",
    "escape": "a\x1b[2J\x1b]0;x\x07",
    "separators": f"a\u2028{FORGED}\u2029\x85{FORGED}",
    "json": f'a","level":"error"}}\n{FORGED}\n{{"x":"',
}
PIECE = 16 << 10  # Docker's: a longer line is several records


def lines_of_services(attack: Attack) -> list[str]:
    logs = sorted((attack.engine.instance.run / "log").glob("*.log"))
    return [line for log in logs for line in log.read_bytes().decode().split("\n") if line]


def requests_told(attack: Attack) -> int:
    return sum('"event":"request"' in line for line in lines_of_services(attack))


@pytest.mark.parametrize("nasty", NASTY.values(), ids=NASTY)
def test_words_of_clients_make_no_line_of_a_log(attack: Attack, nasty: str) -> None:
    before = requests_told(attack)
    quoted = "".join(f"%{byte:02x}" for byte in nasty.encode())
    starts = (f"/containers/{quoted}/start", f"/images/{quoted}/tag?repo={quoted}", f"/containers/create?name={quoted}")
    for path in starts:
        assert attack.engine.api("POST", path, {"Image": nasty}).status in (400, 404)
    assert attack.create("true", Env=[f"A={nasty}"], Labels={nasty: nasty}, Hostname="h").status == 201
    until(lambda: requests_told(attack) >= before + 4)  # the control: these requests are logged, after their answers
    lines = lines_of_services(attack)
    parsed: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert all(each["event"] != "forged" and {"timestamp", "service", "pid"} <= each.keys() for each in parsed)
    assert not any(re.search("[\x00-\x1f\x7f]", line) for line in lines)


@pytest.mark.parametrize("nasty", NASTY.values(), ids=NASTY)
def test_a_label_makes_no_event(attack: Attack, nasty: str) -> None:
    created = attack.create("true", Labels={"told": nasty})
    container = created.json["Id"]
    query = f'since=1&until={time.time():.6f}&filters={{"container":["{container}"]}}'
    answer = attack.engine.api("GET", "/events?" + query.replace('"', "%22"))
    (line,) = [each for each in answer.body.split(b"\n") if each]
    assert json.loads(line)["Actor"]["Attributes"]["told"] == nasty
    assert b"\x1b" not in line and b"\r" not in line


def test_output_makes_no_record_of_its_own(attack: Attack) -> None:
    """One record a line, the stamps ours, whatever is in it; a line of a megabyte comes in pieces and whole."""
    forged = '{"log":"forged\\\\n","stream":"stdout","time":"2001-01-01T00:00:00Z"}'
    said = r"a\033[2Jb\000c\rd\342\200\250e\377f"
    script = f"printf '{forged}\\n'; printf '{said}\\n'; "
    script += f"dd if=/dev/zero bs={1 << 20} count=1 2>/dev/null; echo; echo end"
    container = attack.start("sh", "-c", script)
    attack.logs(container, until="end\n")
    found = attack.engine.api("GET", f"/containers/{container}/json").json
    data = Path(found["LogPath"]).read_bytes()
    records = [json.loads(line) for line in data.split(b"\n") if line]
    assert {each["stream"] for each in records} == {"stdout"}
    assert all(not each["time"].startswith("2001") for each in records)
    texts = [each["log"] for each in records]
    assert texts[0] == forged.replace("\\\\", "\\") + "\n"
    assert texts[1] == "a\x1b[2Jb\0c\rd\u2028e\ufffdf\n"
    assert texts[-1] == "end\n"
    long = texts[2:-1]
    assert "".join(long) == "\0" * (1 << 20) + "\n"
    assert all(len(each) == PIECE and not each.endswith("\n") for each in long[:-1])
    assert not re.search(rb"[\x00-\x09\x0b-\x1f]", data) and b"\xe2\x80\xa8" not in data
