"""Containers that are wedged: reads go on, operations are shown, a forced removal gets through."""

from __future__ import annotations

import threading
import time

from tests.bench.wedged_bench import create, wedged
from tests.support.engine import Engine


def test_wedged_containers_are_listed_shown_and_removed(engine: Engine) -> None:
    stuck = create(engine, 2, started=True)
    with wedged(engine, stuck):
        asking = threading.Thread(target=engine.api, args=("GET", f"/containers/{stuck[0]}/top"))
        asking.start()
        deadline = time.monotonic() + 8
        while not any(stuck[0] in row["Object"] for row in _operations(engine)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        listed = engine.api("GET", "/containers/json").json
        assert {each["Id"] for each in listed} >= set(stuck)
        for container in stuck:
            assert engine.api("GET", f"/containers/{container}/json").json["State"]["Running"]
            # Within its own deadline, not the client's.
            assert engine.api("DELETE", f"/containers/{container}?force=1", seconds=15).status == 204
        asking.join(30)
        assert not asking.is_alive()
    assert engine.api("GET", "/containers/json?all=1").json == []


def _operations(engine: Engine) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = engine.api("GET", "/debug/ops").json["Operations"]
    return [row for row in rows if row["Operation"] != "GET /debug/ops"]
