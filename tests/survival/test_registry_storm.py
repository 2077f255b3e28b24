"""A storm over the registry: pushes, pulls, deletions, a collector that never rests, and kill -9 every few seconds.

What must hold is what people rely on: whatever is listed pulls whole, whatever was acknowledged stays, and in
the end the disk holds the live content and not a byte more. BULKHEAD_STORM_SECONDS makes it longer.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.ports import free_port

SECONDS = float(os.environ.get("BULKHEAD_STORM_SECONDS", "12"))
PUSHERS = PULLERS = 8
REPOSITORIES = ("a", "b", "team/c")
KILL_EVERY = (1.5, 3.5)
GRACE = 4.0
CONFIG = f"""
[registry.gc]
interval = 0.02
grace = {GRACE}
reader_grace = 1.0
upload_ttl = 6.0
untagged = true
orphan_interval = 0.5
"""
SOURCE = Path(__file__).resolve().parents[2] / "services"
KIND = "application/vnd.oci.image.manifest.v1+json"
# Shared by all images, so that one's deletion meets another's push of the same bytes.
LAYERS = [os.urandom(size) for size in (1, 100, 5_000, 50_000, 200_000, 200_001, 700_000, 1_500_000)]


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(slots=True)
class Storm:
    """The registry, what was acknowledged, and what was seen to be wrong."""

    directory: Path
    port: int
    session: aiohttp.ClientSession
    process: asyncio.subprocess.Process | None = None
    acknowledged: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    """What a pusher's own tag may lead to: the last answer, and pushes since then whose answer was lost."""
    wrong: list[str] = field(default_factory=list)
    pushes: int = 0
    pulls: int = 0
    kills: int = 0

    @property
    def root(self) -> Path:
        return self.directory / "root"

    @property
    def environ(self) -> dict[str, str]:
        directories = {"BULKHEAD_RUN": str(self.directory / "run"), "BULKHEAD_DATA": str(self.directory / "data")}
        return {**os.environ, "PYTHONPATH": str(SOURCE), **directories}

    @property
    def flags(self) -> list[str]:
        return ["--config", str(self.directory / "config.toml")]

    async def start(self) -> None:
        address = ["--listen", f"127.0.0.1:{self.port}", "--root", str(self.root)]
        with (self.directory / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "bulkhead.registry", *self.flags, *address), env=self.environ, stderr=log
            )
        await self.alive()

    async def alive(self) -> None:
        """Wait until the registry answers; there is no event to wait for."""
        async with asyncio.timeout(60):
            while True:
                with suppress(aiohttp.ClientError):
                    async with self.session.get(self.url("/healthz")) as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()
        self.kills += 1

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, str]:
        """(status, body, Location)."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(method, self.url(path), data=body, headers=named) as answer:
            return answer.status, await answer.read(), answer.headers.get("Location", "")

    async def collect(self) -> None:
        command = (sys.executable, "-m", "bulkhead.registry", "gc", *self.flags)
        done = await asyncio.create_subprocess_exec(*command, env=self.environ, stdout=asyncio.subprocess.DEVNULL)
        assert await done.wait() == 0


async def give(storm: Storm, repository: str, data: bytes, chance: random.Random) -> None:
    """A blob into a repository, in one of the ways of clients."""
    digest = digest_of(data)
    status, _, _ = await storm.ask("HEAD", f"/v2/{repository}/blobs/{digest}")
    if status == 200:
        return
    other = chance.choice(REPOSITORIES)
    query = chance.choice(["", f"?mount={digest}&from={other}", f"?mount={digest}"])
    status, body, location = await storm.ask("POST", f"/v2/{repository}/blobs/uploads/{query}")
    if status == 201:
        return
    assert status == 202, (status, body)
    half = len(data) // 2 if chance.random() < 0.5 else 0
    if half:
        status, body, location = await storm.ask("PATCH", location, data[:half])
        assert status == 202, (status, body)
    status, body, _ = await storm.ask("PUT", f"{location}?digest={digest}", data[half:])
    assert status == 201, (status, body)


async def push(storm: Storm, repository: str, tag: str, chance: random.Random) -> None:
    """One image; its loss by the collector counts only when the push was quicker than the grace."""
    began = time.monotonic()
    config = json.dumps({"architecture": "amd64", "os": "linux", "n": chance.randrange(40)}).encode()
    blobs = [config, *chance.sample(LAYERS, chance.randint(1, 3))]
    for data in blobs:
        await give(storm, repository, data, chance)
    wires = [{"mediaType": "a/b", "digest": digest_of(data), "size": len(data)} for data in blobs]
    manifest = json.dumps({"schemaVersion": 2, "mediaType": KIND, "config": wires[0], "layers": wires[1:]}).encode()
    possible = storm.acknowledged.setdefault((repository, tag), {""})
    possible.add(digest_of(manifest))
    status, body, _ = await storm.ask("PUT", f"/v2/{repository}/manifests/{tag}", manifest, Content_Type=KIND)
    if status == 201:
        storm.acknowledged[repository, tag] = {digest_of(manifest)}
        storm.pushes += 1
    elif status != 404 or time.monotonic() - began < GRACE / 2:
        storm.wrong.append(f"push to {repository}:{tag} was answered {status} {body!r}")


async def pushing(storm: Storm, number: int) -> None:
    chance = random.Random(number)
    while True:
        # Half of the tags are this pusher's own: nobody else moves or deletes them.
        tag = chance.choice([f"own-{number}-{chance.randrange(2)}", f"shared-{chance.randrange(4)}"])
        try:
            await push(storm, chance.choice(REPOSITORIES), tag, chance)
        except (aiohttp.ClientError, ConnectionError, AssertionError) as error:
            # An upload may be unknown after a kill, and a registry that dies answers nothing; all else is wrong.
            if isinstance(error, AssertionError) and error.args and error.args[0][0] not in (404, 416):
                storm.wrong.append(f"upload was answered {error.args[0]}")
            await storm.alive()


async def pull(storm: Storm, repository: str, tag: str) -> str:
    """What is wrong with an image that is listed; empty when it is whole or no longer there."""
    status, manifest, _ = await storm.ask("GET", f"/v2/{repository}/manifests/{tag}")
    if status == 404:
        return ""
    if status != 200:
        return f"{repository}:{tag}: manifest answered {status}"
    document = json.loads(manifest)
    for wire in (document["config"], *document["layers"]):
        status, data, _ = await storm.ask("GET", f"/v2/{repository}/blobs/{wire['digest']}")
        if status != 200:
            return f"{repository}:{tag} {digest_of(manifest)}: blob {wire['digest']} answered {status}"
        if digest_of(data) != wire["digest"]:
            return f"{repository}:{tag}: blob {wire['digest']} has other bytes"
    return ""


async def pulling(storm: Storm, number: int) -> None:
    chance = random.Random(100 + number)
    while True:
        try:
            repository = chance.choice(REPOSITORIES)
            for tag in chance.sample(found := await listed(storm, repository), min(3, len(found))):
                # The tag may be moved and its old image collected while we read: then it is whole the next time.
                reasons = [await pull(storm, repository, tag)]
                while reasons[-1] and len(reasons) < 3:
                    reasons.append(await pull(storm, repository, tag))
                if reasons[-1]:
                    storm.wrong.append(f"pull: {reasons}")
                storm.pulls += 1
        except (aiohttp.ClientError, ConnectionError):
            await storm.alive()


async def listed(storm: Storm, repository: str) -> list[str]:
    status, body, _ = await storm.ask("GET", f"/v2/{repository}/tags/list")
    return list(json.loads(body)["tags"]) if status == 200 else []


async def deleting(storm: Storm) -> None:
    chance = random.Random(7)
    while True:
        try:
            repository = chance.choice(REPOSITORIES)
            what = chance.choice(["tag", "tag", "blob"])
            if what == "blob":
                path = f"/v2/{repository}/blobs/{digest_of(b'nobody pushes this')}"
            else:
                path = f"/v2/{repository}/manifests/shared-{chance.randrange(4)}"
            status, body, _ = await storm.ask("DELETE", path)
            if status not in (202, 404):
                storm.wrong.append(f"DELETE {path} was answered {status} {body!r}")
            await asyncio.sleep(0.02)
        except (aiohttp.ClientError, ConnectionError):
            await storm.alive()


async def killing(storm: Storm) -> None:
    chance = random.Random(8)
    while True:
        await asyncio.sleep(chance.uniform(*KILL_EVERY))
        await storm.kill()
        await storm.start()


async def rage(storm: Storm, seconds: float) -> None:
    """All of it at once, for so long or until something is wrong."""
    tasks = [asyncio.create_task(pushing(storm, number)) for number in range(PUSHERS)]
    tasks += [asyncio.create_task(pulling(storm, number)) for number in range(PULLERS)]
    tasks += [asyncio.create_task(deleting(storm)), asyncio.create_task(killing(storm))]
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def live_content(storm: Storm) -> dict[str, int]:
    """Digest -> size of everything that some tag leads to; each pulled whole."""
    live: dict[str, int] = {}
    for repository in REPOSITORIES:
        for tag in await listed(storm, repository):
            assert await pull(storm, repository, tag) == ""
            _, manifest, _ = await storm.ask("GET", f"/v2/{repository}/manifests/{tag}")
            document = json.loads(manifest)
            live[digest_of(manifest)] = len(manifest)
            live |= {wire["digest"]: wire["size"] for wire in (document["config"], *document["layers"])}
    return live


def stored(root: Path) -> list[int]:
    """Sizes of all that lies in the store."""
    places = [root / "objects", root / "incoming", root / "uploads"]
    return sorted(path.stat().st_size for place in places for path in place.rglob("*") if path.is_file())


@asynccontextmanager
async def storming(directory: Path) -> AsyncIterator[Storm]:
    (directory / "config.toml").write_text(CONFIG)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60), auto_decompress=False) as session:
        storm = Storm(directory, free_port(), session)
        await storm.start()
        try:
            yield storm
        finally:
            if storm.process is not None and storm.process.returncode is None:
                await storm.kill()


@pytest.mark.timeout(120 + SECONDS * 2)
async def test_what_is_listed_pulls_whole_and_the_disk_holds_nothing_else() -> None:
    with tempfile.TemporaryDirectory(prefix="bh-storm-") as directory:
        async with storming(Path(directory)) as storm:
            await rage(storm, SECONDS)
            if storm.process is None or storm.process.returncode is not None:
                await storm.start()
            await storm.alive()
            assert storm.wrong == []
            await check_acknowledged(storm)
            live: dict[str, Any] = await live_content(storm)
            # What the storm left behind may be collected once its leases end.
            async with asyncio.timeout(60):
                while stored(storm.root) != sorted(live.values()):
                    await storm.collect()
            assert sorted((await live_content(storm)).items()) == sorted(live.items())
            print(f"{storm.pushes} pushes, {storm.pulls} pulls, {storm.kills} kills, {len(live)} objects live")
            assert min(storm.pushes, storm.pulls, storm.kills) > 0


async def check_acknowledged(storm: Storm) -> None:
    """A pusher's own tag leads to what was acknowledged last, or to a push whose answer was lost after it."""
    for (repository, tag), possible in storm.acknowledged.items():
        if tag.startswith("own"):
            status, manifest, _ = await storm.ask("GET", f"/v2/{repository}/manifests/{tag}")
            found = digest_of(manifest) if status == 200 else ""
            assert found in possible, (repository, tag, status)
