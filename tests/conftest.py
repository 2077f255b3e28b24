"""Fixtures of the whole suite: an engine per test process, a fresh one, and the leak check after each use."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import leaks
from tests.support.engine import Engine, private_engine
from tests.support.remapping import remapping_config


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Give `tmp_path` a short root: below xdist's own a Unix socket's path would be too long."""
    if config.option.basetemp is None:
        # Not tempfile's names: podman takes no path with `-_` in it.
        config.option.basetemp = f"/tmp/bh-t-{secrets.token_hex(4)}"
        Path(config.option.basetemp).mkdir(0o700)
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))


def _spare_ourselves() -> None:
    """To kill(2) 0 is the whole group of who asks, with the run of tests and whoever started it: for a test that has
    read no pid it is an error."""
    kill = os.kill

    def checked(pid: int, number: int) -> None:
        if pid <= 0:
            raise ValueError(f"a signal to process {pid} would reach the tests themselves")
        kill(pid, number)

    os.kill = checked


_spare_ourselves()


@pytest.fixture(scope="session")
def shared_engine() -> Iterator[Engine]:
    """One running, seeded engine for all tests of this process. Tests take `engine`, not this."""
    with private_engine() as engine:
        engine.start()
        engine.seed()
        engine.pulled("busybox", "hello-world")
        yield engine


@pytest.fixture
def engine(shared_engine: Engine) -> Iterator[Engine]:
    """The shared engine; after the test its containers are removed and nothing of them may be left."""
    yield from _watched(shared_engine)


@pytest.fixture(scope="session")
def shared_remapping_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The same, of an engine that remaps its containers' users. Tests take `remapping_engine`."""
    config = remapping_config(tmp_path_factory.mktemp("remap"))
    with private_engine(BULKHEAD_CONFIG=str(config)) as engine:
        engine.start()
        engine.seed()
        engine.pulled("busybox")
        yield engine


@pytest.fixture
def remapping_engine(shared_remapping_engine: Engine) -> Iterator[Engine]:
    """The shared engine with `userns_remap`; after the test nothing of its containers may be left."""
    yield from _watched(shared_remapping_engine)


@pytest.fixture
def fresh_engine() -> Iterator[Engine]:
    """A running, seeded engine for one test alone: one that kills its services or wipes its directories."""
    with private_engine() as engine:
        engine.start()
        engine.seed()
        engine.pulled("busybox")
        yield from _watched(engine)


def _watched(engine: Engine) -> Iterator[Engine]:
    engine.start()  # a test before this one may have left a service down
    before = leaks.facts(engine.instance)
    yield engine
    engine.start()
    traces = engine.journals.tracebacks()
    engine.remove_containers()
    left = leaks.left_after(engine.instance, before)
    assert not left, "left behind:\n" + "\n".join(left)
    assert not traces, "errors that nobody expected:\n" + "\n".join(traces)
