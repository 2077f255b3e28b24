"""Clients that send rubbish or leave at the worst moment cost nothing but their own connection."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random

import pytest

from tests.integration.api.conftest import Fake
from tests.support.raw_http import connected, request

UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}
SEEDS = (
    request("GET", "/v1.41/containers/json?all=1&filters=%7B%22label%22%3A%5B%22a%22%5D%7D"),
    request("POST", "/containers/create?name=x", {"Image": "busybox", "HostConfig": {"Binds": ["/a:/b"]}}),
    request("POST", "/containers/x/attach?stream=1&stdin=1", **UPGRADE) + b"input",
    request("POST", "/exec/x/start", {"Detach": False}, **UPGRADE) + b"input",
    request("POST", "/images/load", b"x" * 100, Content_Type="application/x-tar"),
)


def mutated(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(changed))
        action = chance.randrange(4)
        if action == 0:
            changed[place] = chance.randrange(256)
        elif action == 1:
            del changed[place : place + chance.randint(1, 20)]
        elif action == 2:
            changed[place:place] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 8)))
        else:
            changed[place:place] = chance.choice((b"\r\n", b"\0", b"POST ", b"\r\n\r\n", b"/attach", b"%00", b"\xff"))
        if not changed:
            return data
    return bytes(changed)


async def descriptors(fake: Fake, before: int) -> None:
    """Wait until no more descriptors are open than before."""
    async with asyncio.timeout(20):
        while len(os.listdir("/proc/self/fd")) > before:  # noqa: ASYNC110, PTH208 - nobody announces a close
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("seed", range(4))
async def test_rubbish_is_survived(fake: Fake, seed: int) -> None:
    chance = random.Random(seed)
    assert (await fake.call("GET", "/info")).status == 200
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(150):
        async with connected(fake.socket) as wire:
            wire.send(mutated(chance.choice(SEEDS), chance))
            if chance.random() < 0.5:
                wire.writer.write_eof()
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(0.02):
                    await wire.reader.read(1 << 16)
    assert (await fake.call("GET", "/_ping")).body == b"OK"
    await descriptors(fake, before)


async def test_clients_that_leave_in_the_middle_of_a_hijack_leave_nothing(fake: Fake) -> None:
    container = await fake.run("sleep", "100")
    raw = request("POST", f"/containers/{container.id}/attach?stream=1&stdin=1&stdout=1", **UPGRADE)
    assert (await fake.call("GET", "/info")).status == 200
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for cut in (*range(1, len(raw), 17), len(raw)):
        for eof in (False, True):
            async with connected(fake.socket) as wire:
                wire.send(raw[:cut])
                if eof:
                    wire.writer.write_eof()
                if cut == len(raw):
                    await wire.head()
    # The shim's side of each stream is the fake's: it closes when it is next written to.
    for writer, _ in container.process.peers:
        writer.close()
    await descriptors(fake, before)


async def test_deep_and_large_bodies_are_refused(fake: Fake) -> None:
    for body in (b"[" * 500_000, b'{"HostConfig":' * 50_000, b'{"Image":"' + b"x" * (9 << 20) + b'"}'):
        assert (await fake.call("POST", "/containers/create", body)).status == 400


async def test_names_with_slashes_and_dots_reach_no_files(fake: Fake) -> None:
    for ref in ("..", "%2e%2e", "..%2f..%2fetc", "%00", "a%0d%0ab"):
        assert (await fake.call("GET", f"/containers/{ref}/json")).status in (400, 404)
