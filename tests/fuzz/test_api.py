"""A slice of the fuzz of the Engine API; `make fuzz-api TIME=600` is the whole."""

from __future__ import annotations

import os

import pytest

from tests.support.api_description import SPEC
from tests.support.engine import private_engine

SECONDS = 20.0
# The slice asks the same each time, so that it tells of a change; the whole (`make fuzz-api`) looks for news.
SEED = "BULKHEAD_TEST_SEED"


@pytest.mark.timeout(300)
@pytest.mark.skipif(not SPEC.exists(), reason=f"{SPEC} is not on this machine")
def test_no_request_of_the_description_breaks_anything() -> None:
    api = pytest.importorskip("tests.fuzz.api", exc_type=ImportError)
    seed = int(os.environ.get(SEED, "20"))
    with private_engine() as engine:
        engine.start()
        engine.seed()
        engine.pulled("busybox")
        findings = api.examine(engine, SECONDS, seed)
    assert findings.statuses[200], "nothing was reached"
    assert not findings.faults, f"seed {seed}: {findings.faults}"
