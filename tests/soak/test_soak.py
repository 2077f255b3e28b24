"""A short slice of the soak, and whether its judges see what is wrong."""

from __future__ import annotations

import io
import math
import os
import random
import re
import shutil
from typing import Any

import pytest

from bulkhead.model.instance import SERVICES
from tests.soak.__main__ import options
from tests.soak.model import count_faults, faults
from tests.soak.slopes import Sampler, fit
from tests.soak.steady import Steady
from tests.soak.storm import CODES, Storm
from tests.support.engine import Engine

STEPS, SEED = 12, 3
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes containers: needs root")


@pytest.mark.root
@needs_root
def test_a_short_storm_and_the_same_again(fresh_engine: Engine) -> None:
    """What a seed has found is found again by it: operations, their order and every death."""
    first, second = Storm(fresh_engine, SEED), Storm(fresh_engine, SEED)
    for storm in (first, second):
        storm.run(seconds=math.inf, most=STEPS)
    assert first.done["create"] and first.done["death"] + first.done["cut"]
    assert second.story == first.story


@pytest.mark.root
@needs_root
def test_a_short_steady_part(engine: Engine) -> None:
    """Every service, the zygote and the shim of the execs has a line for each figure; all that was asked was done."""
    engine.pulled("busybox")
    work = Steady(engine=engine, cycles=4, execs=40, clients=2, limit=math.inf, say=io.StringIO())
    work.run()
    # As much again when something seemed to grow, which so short a part cannot tell from a beginning.
    assert work.done["cycle"] in (4, 8, 12) and work.done["exec"] in (40, 80, 120)
    seen = {re.split(r":| \(\d", process)[0] for process, _ in work.samplers["exec"].lines()}
    assert seen == {
        *(f"bulkhead-{service}" for service in SERVICES),
        "bulkhead-zygote",
        "bulkhead-shim",
        "(run and data)",
    }
    figures = {figure for process, figure in work.samplers["exec"].lines() if process.startswith("bulkhead-manager")}
    assert figures == {"rss", "pss_anon", "fds", "threads", "zombies", "tasks"}
    assert engine.api("GET", "/containers/json?all=1").json == []


@pytest.mark.root
@needs_root
def test_what_time_did_not_allow_is_told(engine: Engine) -> None:
    engine.pulled("busybox")
    work = Steady(engine=engine, cycles=1, execs=1000, clients=1, limit=0, say=io.StringIO())
    work.run()
    assert work.verdict()[:2] == ["only 0 of 1 cycles", "only 0 of 1000 execs"]


@pytest.mark.root
@needs_root
@pytest.mark.parametrize(("first", "done", "told"), [(math.inf, 180, 1), (54, 120, 0), (0, 60, 0)])
def test_what_seems_to_grow_is_looked_at_longer(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, first: float, done: int, told: int
) -> None:
    """A leak goes on, what was filling is full: files here, of each operation or of the first ones alone."""
    place = engine.instance.data / "heap"
    place.mkdir()

    def leave(_: Steady, number: int) -> None:
        if number < first:
            (place / str(number)).touch()

    monkeypatch.setattr(Steady, "_exec", leave)
    work = Steady(engine=engine, cycles=1, execs=60, clients=1, limit=math.inf, say=io.StringIO())
    try:
        work._part("exec", 60, work._exec, math.inf)
        grown = [line for line in work.samplers["exec"].verdict() if line.startswith("(run and data) gains 1 ")]
    finally:
        shutil.rmtree(place)
    assert (work.done["exec"], len(grown)) == (done, told)


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
    noise = [(float(done), 40 + chance.choice((0, 0, 1, 2))) for done in range(200)]
    leak = [(done, held + done / 20) for done, held in noise]
    still, growing = fit(noise), fit(leak)
    assert still is not None and growing is not None
    assert (still.grows("fds"), growing.grows("fds")) == (False, True)
    assert growing.slope == pytest.approx(0.05, abs=growing.margin) and abs(still.slope) < still.margin
    # What fills at the beginning and then stays is none.
    cache = fit([(float(done), min(done, 60) * 100000.0) for done in range(200)])
    assert cache is not None and not cache.grows("rss")


@pytest.mark.parametrize("at", [100, 140, 143, 190])
def test_one_step_of_an_allocator_is_no_leak_and_some_are(at: int) -> None:
    once = fit([(float(done), 4e6 * (done > at)) for done in range(200)])
    some = fit([(float(done), 1e6 * (done // 30)) for done in range(200)])
    assert once is not None and some is not None
    assert (once.grows("rss"), some.grows("rss")) == (False, True)


def test_too_few_samples_are_no_good_news(engine: Engine) -> None:
    sampler = Sampler(engine.instance)
    sampler.begin()
    sampler.take(1)
    assert sampler.verdict() == ["too few samples for a line: whether anything grows is not known"]
    samples = sampler.series["(run and data)", "cgroups"]
    samples += [(float(done), samples[0][1]) for done in range(2, 60)]
    assert sampler.verdict() == []


def test_who_dies_in_the_steady_part_is_told(fresh_engine: Engine) -> None:
    sampler = Sampler(fresh_engine.instance)
    sampler.begin()
    pid = fresh_engine.pid("registry")
    sampler.take(0)
    fresh_engine.kill("registry")
    fresh_engine.start("registry")
    sampler.take(1)
    samples = sampler.series["(run and data)", "cgroups"]
    samples += [(float(done), samples[0][1]) for done in range(2, 60)]
    assert sampler.verdict() == [f"bulkhead-registry ({pid}) died"]


@pytest.mark.parametrize("arguments", [["abc"], ["nan"], ["-1"], ["5", "x"], [], ["5", "7", "--execs", "-1"]])
def test_a_wrong_command_line_is_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        options(arguments)
    assert ended.value.code == 2 and "usage: python -m tests.soak" in capsys.readouterr().err
    told = options(["5", "7", "--execs", "100"])
    assert (told.seconds, told.seed, told.execs) == (5.0, 7, 100)
