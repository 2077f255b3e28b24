"""Push: the same bytes arrive under the same digest, and nothing is sent that is already there."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path

import pytest

from bulkhead.ctl.seed.images import Tree, image_of
from bulkhead.ctl.seed.push import push
from bulkhead.errors import InvalidArgument
from bulkhead.wire.gen.bulkhead.manager.v1 import InspectImageRequest, Progress, PushRequest, TagRequest
from tests.integration.images.conftest import Engine, Registry, collect, statuses
from tests.support.ports import free_port

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="layers are unpacked with their owners: needs root"),
]


async def pushed(engine: Engine, reference: str, *, all_tags: bool = False) -> list[Progress]:
    return await collect(engine.stub.push(PushRequest(reference=reference, all_tags=all_tags)))


def skopeo(*arguments: str) -> None:
    subprocess.run(["skopeo", *arguments], check=True, timeout=60, capture_output=True)


async def test_pushed_image_has_its_original_digest(engine: Engine, registry: Registry, tmp_path: Path) -> None:
    """Recompressed layers would be another image; another tool must be able to read what we pushed."""
    image = image_of(Tree().file("a", b"a"), Tree().file("b", b"b"), command=["/x"])
    push(registry.host, "library/origin", "latest", image)
    await engine.pull("origin")
    target = f"{registry.host}/team/copy:v1"
    await engine.stub.tag(TagRequest(ref="origin", target=target))

    lines = await pushed(engine, target)

    assert lines[0].status == f"The push refers to repository [{registry.host}/team/copy]"
    assert f"v1: digest: {image.manifest_digest} size: {len(image.manifest)}" in statuses(lines)
    aux = [json.loads(line.aux) for line in lines if line.aux]
    assert aux == [{"Tag": "v1", "Digest": image.manifest_digest, "Size": len(image.manifest)}]
    assert statuses(lines).count("Pushed") == 2
    assert engine.events.seen[-1] == ("image", "push", target, {"name": target.removesuffix(":v1")})
    layout = tmp_path / "layout"
    await asyncio.to_thread(skopeo, "copy", "--src-tls-verify=false", f"docker://{target}", f"oci:{layout}:v1")
    assert image.manifest_digest in (layout / "index.json").read_text()
    known = (await engine.stub.inspect(InspectImageRequest(ref=target))).repo_digests
    assert f"{registry.host}/team/copy@{image.manifest_digest}" in known


async def test_second_push_sends_nothing(engine: Engine, registry: Registry) -> None:
    push(registry.host, "library/known", "latest", image_of(Tree().file("known", b"k")))
    await engine.pull("known")
    target = f"{registry.host}/team/known"
    await engine.stub.tag(TagRequest(ref="known", target=target))
    await pushed(engine, target)
    assert "Layer already exists" in statuses(await pushed(engine, target))


async def test_blob_of_another_repository_is_mounted(engine: Engine, registry: Registry) -> None:
    push(registry.host, "team/from", "latest", image_of(Tree().file("mounted", b"m" * 1000)))
    await engine.pull(f"{registry.host}/team/from")
    target = f"{registry.host}/team/to"
    await engine.stub.tag(TagRequest(ref=f"{registry.host}/team/from", target=target))
    assert "Mounted from team/from" in statuses(await pushed(engine, target))


async def test_all_tags_are_pushed(engine: Engine, registry: Registry) -> None:
    push(registry.host, "library/many", "latest", image_of(Tree().file("many", b"m")))
    await engine.pull("many")
    for tag in ("a", "b"):
        await engine.stub.tag(TagRequest(ref="many", target=f"{registry.host}/team/many:{tag}"))
    lines = await pushed(engine, f"{registry.host}/team/many", all_tags=True)
    assert [json.loads(line.aux)["Tag"] for line in lines if line.aux] == ["a", "b"]


async def test_errors_of_push_end_the_stream(engine: Engine, registry: Registry) -> None:
    """Docker has told which repository it pushes to before it looks for the image."""
    lines = await pushed(engine, f"{registry.host}/team/absent")
    assert lines[-1].error == f"An image does not exist locally with the tag: {registry.host}/team/absent"
    push(registry.host, "library/refused", "latest", image_of(Tree().file("refused", b"r")))
    await engine.pull("refused")
    nowhere = f"127.0.0.1:{free_port()}/team/refused"
    await engine.stub.tag(TagRequest(ref="refused", target=nowhere))
    lines = await pushed(engine, nowhere)
    assert "connection refused" in lines[-1].error
    assert lines[-1].error_kind == "Unavailable"
    with pytest.raises(InvalidArgument):
        await pushed(engine, f"x@sha256:{'0' * 64}")
