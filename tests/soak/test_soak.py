"""A short slice of the soak, and whether its judges see what is wrong."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from tests.soak.model import count_faults, faults
from tests.soak.slopes import fit
from tests.soak.storm import CODES, Storm
from tests.support.engine import Engine

STEPS = 50


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="makes containers: needs root")
def test_a_short_storm(fresh_engine: Engine) -> None:
    storm = Storm(fresh_engine, seed=20261122)
    storm.run(seconds=25, most=STEPS)
    assert storm.done["create"]


def events(*actions: str, code: int = 0) -> list[dict[str, Any]]:
    return [{"Action": action, "Actor": {"Attributes": {"exitCode": str(code)}}} for action in actions]


@pytest.mark.parametrize(
    ("actions", "code", "wrong"),
    [
        (("create", "start", "die", "start", "pause", "unpause", "kill", "die", "stop", "destroy"), 0, ""),
        (("create", "exec_create: sh", "start", "rename", "die"), 137, ""),
        (("create", "start", "die", "die"), 0, "die of a container that is not alive"),
        (("create", "start", "start"), 0, "start of a container that is alive"),
        (("create", "destroy", "start"), 0, "start after destroy"),
        (("create", "start", "destroy"), 0, "destroy of a container that is alive"),
        (("start",), 0, "start before create"),
        (("create", "start", "die"), 255, "die with code 255, not of [0, 7, 137]"),
    ],
)
def test_lives_are_judged(actions: tuple[str, ...], code: int, wrong: str) -> None:
    assert (faults(events(*actions, code=code), CODES) or [""])[0] == wrong


def test_a_missing_line_is_seen() -> None:
    assert count_faults(["0", "1", "0", "1", "2"]) == []
    assert count_faults(["0", "1", "3"]) == ["'3' where 2 should be"]
    assert count_faults(["1"]) == ["'1' where 0 should be"]


def test_a_leak_is_told_from_noise() -> None:
    chance = random.Random(1)
    noise = [(float(cycle), 40 + chance.choice((0, 0, 1, 2))) for cycle in range(200)]
    leak = [(cycle, held + cycle / 20) for cycle, held in noise]
    still, growing = fit(noise), fit(leak)
    assert still is not None and growing is not None
    assert (still.leaks("fds"), growing.leaks("fds")) == (False, True)
    assert growing.slope == pytest.approx(50, abs=5)
    # What fills at the beginning and then stays is none.
    cache = fit([(float(cycle), min(cycle, 60) * 100.0) for cycle in range(200)])
    assert cache is not None and not cache.leaks("rss_kib")
