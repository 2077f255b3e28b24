"""Pull: from a real registry to unpacked layers, and everything that can go wrong on the way."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from bulkhead.ctl.seed.images import Image, Tree, image_of
from bulkhead.ctl.seed.push import push
from bulkhead.errors import NotFound
from tests.integration.images.conftest import Engine, Open, Registry, statuses

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="layers are unpacked with their owners: needs root"),
]


def two_layers(name: str = "two") -> Image:
    """A base with a file that the upper layer deletes."""
    base = Tree().directory("etc", 0o750).file("etc/gone", b"old").file("etc/kept", b"kept")
    upper = Tree().file("etc/.wh.gone", b"").file("hello", name.encode(), 0o755)
    return image_of(base, upper, command=["/hello"], config={"Labels": {"name": name}})


def mode_of(path: str) -> int | None:
    try:
        return stat.S_IMODE(Path(path).stat().st_mode)
    except FileNotFoundError:
        return None


async def test_pulled_image_is_resolved_and_prepared(engine: Engine, registry: Registry) -> None:
    """The way of every first `docker run`."""
    push(registry.host, "library/two", "latest", two_layers())

    lines = await engine.pull("two")

    image = await engine.images.store.resolve("two")
    assert image.config.cmd == ("/hello",)
    assert statuses(lines)[0] == "Pulling from library/two"
    assert statuses(lines)[-1] == "Status: Downloaded newer image for two:latest"
    assert statuses(lines).count("Pull complete") == 2
    assert engine.events.seen == [("image", "pull", "two:latest", {"name": "two"})]

    dirs = await engine.images.snapshots.prepare("c" * 64, image.id)
    upper, base, _ = (Path(path) for path in dirs.lower)
    assert (upper / "hello").read_bytes() == b"two"
    assert stat.S_ISCHR((upper / "etc/gone").stat().st_mode)
    assert (base / "etc/kept").read_bytes() == b"kept"
    assert mode_of(dirs.upper) == 0o755
    assert stat.S_IMODE((upper / "etc").stat().st_mode) == 0o750, "a directory not described is as below"
    assert await engine.images.snapshots.prepare("c" * 64, image.id) == dirs
    await engine.images.snapshots.remove("c" * 64)
    assert mode_of(dirs.upper) is None


async def test_second_pull_finds_everything_there(engine: Engine, registry: Registry) -> None:
    push(registry.host, "library/again", "latest", two_layers())
    await engine.pull("again")

    lines = await engine.pull("again")

    assert statuses(lines).count("Already exists") == 2
    assert statuses(lines)[-1] == "Status: Image is up to date for again:latest"


async def test_unknown_image_is_an_error_before_any_output(engine: Engine, registry: Registry) -> None:
    """docker run shows a status code, not a broken stream."""
    with pytest.raises(NotFound, match=r"manifest for 127.0.0.1:\d+/nothing/here:latest not found|repository"):
        await engine.pull(f"{registry.host}/nothing/here")


async def test_image_survives_restart(open_engine: Open, registry: Registry) -> None:
    push(registry.host, "library/durable", "v1", two_layers("durable"))
    async with open_engine() as first:
        await first.pull("durable:v1")
        before = await first.images.store.resolve("durable:v1")
    async with open_engine() as second:
        assert await second.images.store.resolve("durable:v1") == before
        assert len(second.layers) == 2
