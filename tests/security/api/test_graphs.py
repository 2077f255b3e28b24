"""M07: a graph of manifests is walked once, however many ways lead through it (pages: see the README)."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

from bulkhead.content import media_types
from bulkhead.content.blocking import Blocking
from bulkhead.ctl.seed.images import image_of
from bulkhead.registry.adapters.file_objects import FileObjects
from bulkhead.registry.adapters.storage import DurableStorage
from bulkhead.registry.collection import Policy
from bulkhead.registry.ports import Swept
from tests.contract.registry.conftest import Clock, opened
from tests.contract.registry.test_storage import DATA, DIGEST, new_manifest, put_blob
from tests.integration.registry.wire import wire
from tests.support.engine import Engine
from tests.support.images import push_image

LEVELS = 40  # two manifests each, of which each names both below: 2^40 ways down
POLICY = Policy(grace=100.0, reader_grace=10.0, untagged=True)


async def test_the_collector_walks_a_diamond_once(tmp_path: Path) -> None:
    clock, blocking = Clock(), Blocking(2)
    storage = DurableStorage(tmp_path, FileObjects(tmp_path, blocking), blocking, POLICY, clock)
    async with opened(storage):
        await put_blob(storage, "app", DATA)
        below = [new_manifest(b"a", DIGEST), new_manifest(b"b", DIGEST)]
        for each in below:
            await storage.put_manifest("app", each, [])
        for number in range(LEVELS):
            children = tuple(each.stored.digest for each in below)
            below = [new_manifest(f"{number}{side}".encode(), children=children) for side in "ab"]
            for each in below:
                await storage.put_manifest("app", each, [])
        await storage.put_manifest("app", below[0], ["top"])
        clock.now += 1000
        assert (await storage.sweep()).manifests == 1  # the other top: nothing leads to it
        await storage.delete_tag("app", "top")
        removed = 0
        for _ in range(2 * LEVELS + 4):  # the control: without a tag all of it goes
            clock.now += 1000
            swept = await storage.sweep()
            removed += swept.manifests
            if swept == Swept():
                break
        assert removed == 2 * LEVELS + 1


def put(engine: Engine, name: str, tag: str, body: bytes) -> None:
    url = f"http://{engine.instance.registry}/v2/{name}/manifests/{tag}"
    request = urllib.request.Request(url, data=body, method="PUT", headers={"Content-Type": media_types.OCI_INDEX})
    urllib.request.urlopen(request, timeout=20).close()


def index(*below: tuple[str, bytes], note: str) -> bytes:
    platform = {"os": "linux", "architecture": "amd64"}
    entries = [{**wire(kind, each), "platform": platform} for kind, each in below]
    told = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": entries, "annotations": {"n": note}}
    return json.dumps(told).encode()


def pulled(engine: Engine, levels: int) -> bytes:
    """What a pull through `levels` levels of two indexes each says."""
    image = image_of(command=["true"], config={})
    name = f"diamond/of{levels}"
    push_image(engine.instance.registry, name, image)
    below = [(media_types.OCI_MANIFEST, image.manifest)] * 2
    for number in range(levels):
        above = [index(*below, note=f"{number}{side}") for side in "ab"]
        for each in zip("ab", above, strict=True):
            put(engine, name, f"l{number}{each[0]}", each[1])
        below = [(media_types.OCI_INDEX, each) for each in above]
    answer = engine.api("POST", f"/images/create?fromImage={engine.instance.registry}/{name}&tag=l{levels - 1}a")
    return answer.body


def test_a_pull_goes_down_once_and_not_for_ever(engine: Engine) -> None:
    assert b"indexes in one another" in pulled(engine, LEVELS)
    said = pulled(engine, 2)  # the control
    assert b"Status: Downloaded newer image" in said, said
