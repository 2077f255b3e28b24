"""A short slice of the soak, and whether its judges see what is wrong."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from tests.soak.__main__ import options
from tests.soak.model import count_faults, faults
from tests.soak.slopes import Sampler, fit
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


def test_too_few_cycles_are_no_good_news(engine: Engine) -> None:
    sampler = Sampler(engine.instance)
    sampler.take(1)
    assert sampler.verdict() == ["too few cycles for a line: whether anything grows is not known"]
    for cycle in range(2, 30):
        sampler.series["manager", "fds"].append((cycle, 40.0))
    assert sampler.verdict() == []


@pytest.mark.parametrize("arguments", [["abc"], ["nan"], ["-1"], ["5", "x"], []])
def test_a_wrong_command_line_is_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        options(arguments)
    assert ended.value.code == 2 and "usage: python -m tests.soak" in capsys.readouterr().err
    assert (options(["5", "7"]).seconds, options(["5", "7"]).seed) == (5.0, 7)
