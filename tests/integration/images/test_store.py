"""List, inspect, tag, remove, prune: over the socket, on images that were really pulled."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from bulkhead.ctl.seed.images import Image, Tree, digest_of, image_of
from bulkhead.ctl.seed.push import push
from bulkhead.errors import BulkheadError, Conflict, InvalidArgument, NotFound
from bulkhead.wire.gen.bulkhead.manager.v1 import (
    InspectImageRequest,
    ListImagesRequest,
    PruneImagesRequest,
    RemoveImageRequest,
    TagRequest,
)
from bulkhead.wire.gen.bulkhead.types.v1 import StringList
from tests.integration.images.conftest import Engine, Open, Registry

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="layers are unpacked with their owners: needs root"),
]


def one_layer(name: str, base: bytes | None = None) -> Image:
    """An image unlike any other, above a base that others may share."""
    own = Tree().file("name", name.encode())
    shared = [Tree().file("base", base)] if base is not None else []
    return image_of(*shared, own, command=["/x"], config={"Labels": {"name": name}})


async def pulled(engine: Engine, registry: Registry, name: str, image: Image | None = None) -> str:
    push(registry.host, f"library/{name}", "latest", image or one_layer(name))
    await engine.pull(name)
    return (await engine.images.store.resolve(name)).id


async def names(engine: Engine, **filters: list[str]) -> set[str]:
    request = ListImagesRequest(filters={key: StringList(items=values) for key, values in filters.items()})
    return {tag for image in (await engine.stub.list(request)).images for tag in image.repo_tags or [image.id]}


async def remove(engine: Engine, ref: str, *, force: bool = False) -> list[Mapping[str, str]]:
    response = await engine.stub.remove(RemoveImageRequest(ref=ref, force=force))
    return [{"untagged": item.untagged} if item.untagged else {"deleted": item.deleted} for item in response.items]


def is_there(path: str) -> bool:
    return Path(path).is_dir()


async def test_image_is_found_by_every_name_it_has(engine: Engine, registry: Registry) -> None:
    """engine-api 4.1: name first, then id, then the beginning of an id."""
    image_id = await pulled(engine, registry, "found")
    digest = (await engine.stub.inspect(InspectImageRequest(ref="found"))).repo_digests[0]
    encoded = image_id.removeprefix("sha256:")
    for ref in (
        "found",
        "found:latest",
        "docker.io/library/found",
        digest,
        image_id,
        encoded,
        encoded[:12],
        image_id[:19],
    ):
        assert (await engine.images.store.resolve(ref)).id == image_id, ref


@pytest.mark.parametrize(
    ("ref", "error", "text"),
    [
        ("nope", NotFound, "No such image: nope:latest"),
        ("nope:v1", NotFound, "No such image: nope:v1"),
        ("f" * 64, NotFound, f"No such image: {'f' * 64}"),
        ("sha256:abc", NotFound, "No such image: sha256:abc"),
        ("Nope", InvalidArgument, "invalid reference format: repository name (library/Nope) must be lowercase"),
        ("", InvalidArgument, "invalid reference format"),
    ],
)
async def test_what_is_not_there_is_told_as_docker_does(
    engine: Engine, ref: str, error: type[BulkheadError], text: str
) -> None:
    """Clients pull on exactly these texts."""
    with pytest.raises(error) as told:
        await engine.images.store.resolve(ref)
    assert str(told.value) == text


async def test_inspect_and_history_tell_of_the_config(engine: Engine, registry: Registry) -> None:
    image_id = await pulled(engine, registry, "told", one_layer("told", b"base"))
    image = await engine.stub.inspect(InspectImageRequest(ref="told"))
    assert image.id == image_id
    assert image.repo_tags == ["told:latest"]
    assert json.loads(image.config)["config"]["Labels"] == {"name": "told"}
    assert image.size == len(b"told") + len(b"base")
    assert image.tagged_at > 0
    history = (await engine.stub.history(InspectImageRequest(ref="told"))).entries
    assert [entry.id for entry in history] == [image_id, "<missing>"]
    assert [entry.size for entry in history] == [4, 4]
    assert history[0].tags == ["told:latest"]


async def test_filters_of_list(engine: Engine, registry: Registry) -> None:
    await pulled(engine, registry, "one")
    await pulled(engine, registry, "two")
    await engine.stub.tag(TagRequest(ref="one", target="team/one:v1"))
    assert await names(engine) == {"one:latest", "team/one:v1", "two:latest"}
    assert await names(engine, reference=["o*"]) == {"one:latest"}
    assert await names(engine, reference=["*/one", "two:la*"]) == {"team/one:v1", "two:latest"}
    assert await names(engine, label=["name=two"]) == {"two:latest"}
    assert await names(engine, label=["name"], dangling=["true"]) == set()
    assert await names(engine, until=["2020-01-01"]) == set()
    for wrong in ({"colour": ["red"]}, {"dangling": ["maybe"]}, {"reference": ["[a"]}, {"until": ["soon"]}):
        with pytest.raises(InvalidArgument):
            await names(engine, **wrong)
    with pytest.raises(NotFound):
        await names(engine, before=["nope"])


async def test_removal_of_one_of_two_tags_only_untags(engine: Engine, registry: Registry) -> None:
    image_id = await pulled(engine, registry, "twice")
    await engine.stub.tag(TagRequest(ref="twice", target="twice:v2"))
    assert await remove(engine, "twice:v2") == [{"untagged": "twice:v2"}]
    assert (await engine.images.store.resolve("twice")).id == image_id
    assert engine.events.actions == ["pull", "tag", "untag"]


async def test_removal_of_the_last_tag_frees_everything(engine: Engine, registry: Registry) -> None:
    """A disk that never comes back is users' seventh complaint."""
    image_id = await pulled(engine, registry, "last")
    digest = (await engine.stub.inspect(InspectImageRequest(ref="last"))).repo_digests[0]
    layers = list(engine.layers)
    removed = await remove(engine, "last")
    assert removed[:3] == [{"untagged": "last:latest"}, {"untagged": digest}, {"deleted": image_id}]
    assert removed[3:] == [{"deleted": f"sha256:{layers[0]}"}]
    assert engine.blobs == set()
    assert engine.layers == set()
    assert engine.events.actions == ["pull", "untag", "untag", "delete"]
    with pytest.raises(NotFound):
        await remove(engine, "last")


async def test_shared_layers_stay_for_the_other_image(engine: Engine, registry: Registry) -> None:
    await pulled(engine, registry, "left", one_layer("left", b"shared"))
    await pulled(engine, registry, "right", one_layer("right", b"shared"))
    assert len(engine.layers) == 3
    await remove(engine, "left")
    assert len(engine.layers) == 2
    dirs = await engine.images.snapshots.prepare("c1", (await engine.images.store.resolve("right")).id)
    assert all(is_there(path) for path in dirs.lower)


async def test_conflicts_with_containers_have_dockers_texts(engine: Engine, registry: Registry) -> None:
    image_id = await pulled(engine, registry, "used")
    short = image_id[7:19]
    engine.users[image_id] = [("a" * 64, False)]
    for ref, text in (
        ("used", f'unable to remove repository reference "used" (must force) - container {"a" * 12} is using its'),
        (short, f"unable to delete {short} (must be forced) - image is being used by stopped container {'a' * 12}"),
    ):
        with pytest.raises(Conflict) as told:
            await remove(engine, ref)
        assert text in str(told.value)
    engine.users[image_id] = [("b" * 64, True)]
    with pytest.raises(Conflict) as told:
        await remove(engine, short, force=True)
    assert "(cannot be forced) - image is being used by running container " + "b" * 12 in str(told.value)
    assert {"untagged": "used:latest"} in await remove(engine, "used", force=True)
    assert await names(engine) == {image_id}, "it stays, without a name, for its running container"


async def test_forced_removal_leaves_a_stopped_container_its_layers(open_engine: Open, registry: Registry) -> None:
    """docker start of such a container works, also after a restart; the layers go when it goes."""
    async with open_engine() as engine:
        image_id = await pulled(engine, registry, "forced")
        await engine.images.snapshots.prepare("c1", image_id)
        engine.users[image_id] = [("c1", False)]
        assert {"deleted": image_id} in await remove(engine, "forced", force=True)
        assert await names(engine) == set()
    async with open_engine(containers=["c1"], users={image_id: [("c1", False)]}) as engine:
        assert await names(engine) == set()
        dirs = await engine.images.snapshots.prepare("c1", image_id)
        assert is_there(dirs.lower[0])
        engine.users.clear()
        await engine.images.snapshots.remove("c1")
        await engine.images.store.prune({})
        assert engine.layers == set()
        assert engine.blobs == set()


async def test_prune_takes_dangling_images_and_all_takes_unused_ones(engine: Engine, registry: Registry) -> None:
    old = await pulled(engine, registry, "moved", one_layer("moved-1"))
    await pulled(engine, registry, "moved", one_layer("moved-2"))
    kept = await pulled(engine, registry, "in-use")
    engine.users[kept] = [("c1", False)]
    response = await engine.stub.prune(PruneImagesRequest())
    assert {item.deleted for item in response.items} >= {old}
    assert response.space_reclaimed > 0
    assert await names(engine) == {"moved:latest", "in-use:latest"}
    await engine.stub.prune(PruneImagesRequest(filters={"dangling": StringList(items=["false"])}))
    assert await names(engine) == {"in-use:latest"}


async def test_tag_moves_between_images_and_leaves_the_other_dangling(engine: Engine, registry: Registry) -> None:
    first = await pulled(engine, registry, "first")
    second = await pulled(engine, registry, "second")
    await engine.stub.tag(TagRequest(ref="first", target="second"))
    assert (await engine.images.store.resolve("second")).id == first
    assert await names(engine, dangling=["true"]) == {second}
    with pytest.raises(InvalidArgument):
        await engine.stub.tag(TagRequest(ref="first", target="Bad"))
    with pytest.raises(NotFound):
        await engine.stub.tag(TagRequest(ref="nope", target="good"))


async def test_image_in_the_hands_of_an_operation_is_not_deleted(engine: Engine, registry: Registry) -> None:
    """Between `create` finding the image and its record there is a moment in which nobody may take it away."""
    image_id = await pulled(engine, registry, "handed")
    with engine.images.store.holding(image_id):
        with pytest.raises(Conflict, match="operation under way"):
            await remove(engine, "handed")
        await remove(engine, "handed", force=True)
        dirs = await engine.images.snapshots.prepare("c1", image_id)
        assert is_there(dirs.lower[0])
    await engine.images.store.prune({})
    assert engine.layers == set()


async def test_image_dated_beyond_all_clocks_is_listed(engine: Engine, registry: Registry) -> None:
    """One strange image must not break the list for all others."""
    strange = one_layer("strange")
    document = json.loads(strange.manifest)
    config = json.loads(strange.blobs[document["config"]["digest"]]) | {"created": "9999-12-31T23:59:59Z"}
    body = json.dumps(config).encode()
    document["config"] |= {"digest": digest_of(body), "size": len(body)}
    image = Image(blobs={**strange.blobs, digest_of(body): body}, manifest=json.dumps(document).encode())
    await pulled(engine, registry, "strange", image)
    assert await names(engine) == {"strange:latest"}


async def test_repacked_image_replaces_its_old_blobs(engine: Engine, registry: Registry) -> None:
    """The same config with differently compressed layers is the same image: one packing is enough."""
    first = one_layer("repacked")
    await pulled(engine, registry, "repacked", first)
    document = json.loads(first.manifest)
    (layer,) = document["layers"]
    plain = gzip.decompress(first.blobs[layer["digest"]])
    document["layers"] = [
        {"mediaType": layer["mediaType"].removesuffix("+gzip"), "digest": digest_of(plain), "size": len(plain)}
    ]
    config = document["config"]["digest"]
    repacked = Image(
        blobs={config: first.blobs[config], digest_of(plain): plain}, manifest=json.dumps(document).encode()
    )
    image_id = await pulled(engine, registry, "repacked", repacked)
    assert image_id == config
    assert engine.blobs == {
        digest.removeprefix("sha256:") for digest in (config, digest_of(plain), repacked.manifest_digest)
    }
    assert len((await engine.stub.inspect(InspectImageRequest(ref="repacked"))).repo_digests) == 2


async def test_containers_are_counted_and_named_to_who_asks(engine: Engine, registry: Registry) -> None:
    """There may be ten thousand of one image: inspect does not carry their ids for nothing."""
    image_id = await pulled(engine, registry, "popular")
    engine.users[image_id] = [("a" * 64, False), ("b" * 64, True)]
    for asked, ids in ((False, []), (True, ["b" * 64, "a" * 64])):
        inspected = await engine.stub.inspect(InspectImageRequest(ref="popular", container_ids=asked))
        listed = (await engine.stub.list(ListImagesRequest(container_ids=asked))).images[0]
        assert inspected.presence is not None and listed.presence is not None
        assert inspected.presence.container_ids == listed.presence.container_ids == ids
        assert listed.containers == 2
