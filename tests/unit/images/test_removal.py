"""What `rmi` does: every case of Docker's rules, decided without a disk."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from bulkhead.errors import Conflict, NotFound
from bulkhead.manager.images.catalogue import Catalogue, Change, Tag
from bulkhead.manager.images.records import ImageRecord
from bulkhead.manager.images.removal import Users, decide
from bulkhead.model.digest import Digest
from bulkhead.model.image import ImageConfig
from bulkhead.model.reference import parse_reference
from tests.support.steps import steps

ID = Digest("sha256", "abc" + "0" * 61)
OTHER = Digest("sha256", "abd" + "0" * 61)
DIGEST = f"sha256:{'d' * 64}"
NOBODY, STOPPED, RUNNING = Users(), Users(idle="c" * 64), Users(running="c" * 64)


def record(image_id: Digest, *, removed: bool = False) -> ImageRecord:
    return ImageRecord(
        id=image_id,
        config=ImageConfig(),
        config_json=b"{}",
        manifest=image_id,
        manifest_media_type="",
        manifest_size=0,
        layers=(),
        created_at=0,
        removed=removed,
    )


def books(*names: str) -> Catalogue:
    """One image with these names, and another without any."""
    found = Catalogue()
    parsed = [parse_reference(name) for name in names]
    found.apply(
        Change(
            images=(record(ID), record(OTHER)),
            tags={name: Tag(image=ID, tagged_at=1) for name in parsed if name.digest is None},
            digests={name: ID for name in parsed if name.digest is not None},
        )
    )
    return found


@pytest.mark.parametrize(
    ("names", "ref", "users", "force", "untagged", "deleted"),
    [
        (["a:1"], "a:1", NOBODY, False, ["a:1"], True),
        (["a:1", "b:1"], "a:1", NOBODY, False, ["a:1"], False),
        (["a:1", "a:2"], "a:1", RUNNING, False, ["a:1"], False),
        (["a:1", f"a@{DIGEST}"], "a:1", NOBODY, False, ["a:1", f"a@{DIGEST}"], True),
        (["a:1", "a:2", f"a@{DIGEST}"], "a:1", NOBODY, False, ["a:1"], False),
        (["a:1", f"b@{DIGEST}"], "a:1", NOBODY, False, ["a:1"], False),
        (["a:1", f"a@{DIGEST}"], f"a@{DIGEST}", NOBODY, False, [f"a@{DIGEST}"], False),
        ([f"a@{DIGEST}"], f"a@{DIGEST}", NOBODY, False, [f"a@{DIGEST}"], True),
        ([], "abc", NOBODY, False, [], True),
        (["a:1"], "abc", NOBODY, False, ["a:1"], True),
        (["a:1", f"a@{DIGEST}"], "abc", NOBODY, False, ["a:1", f"a@{DIGEST}"], True),
        (["a:1", "b:1"], "abc", NOBODY, True, ["a:1", "b:1"], True),
        (["a:1"], "abc", STOPPED, True, ["a:1"], True),
        (["a:1"], "a:1", STOPPED, True, ["a:1"], True),
        (["a:1"], "a:1", RUNNING, True, ["a:1"], False),
        (["a:latest"], "a", NOBODY, False, ["a:latest"], True),
    ],
)
def test_removal_untags_then_deletes(
    names: list[str], ref: str, users: Users, force: bool, untagged: list[str], deleted: bool
) -> None:
    verdict = decide(books(*names), record(ID), ref, users, force=force)
    assert [name.familiar() for name in verdict.untagged] == untagged
    assert verdict.deleted is deleted


@pytest.mark.parametrize(
    ("names", "ref", "users", "force", "text"),
    [
        (["a:1"], "a:1", STOPPED, False, 'conflict: unable to remove repository reference "a:1" (must force)'),
        (["a:1", "b:1"], "abc", NOBODY, False, "(must be forced) - image is referenced in multiple repositories"),
        (["a:1", "a:2"], "abc", NOBODY, False, "(must be forced) - image is referenced in multiple repositories"),
        (["a:1"], "abc", STOPPED, False, "(must be forced) - image is being used by stopped container cccccccccccc"),
        (["a:1"], "abc", RUNNING, False, "(cannot be forced) - image is being used by running container cccccccccccc"),
        (["a:1"], "abc", RUNNING, True, "(cannot be forced) - image is being used by running container cccccccccccc"),
        ([], "abc", STOPPED, False, "conflict: unable to delete abc000000000 (must be forced)"),
    ],
)
def test_conflicts_have_dockers_texts(names: list[str], ref: str, users: Users, force: bool, text: str) -> None:
    with pytest.raises(Conflict) as told:
        decide(books(*names), record(ID), ref, users, force=force)
    assert text in str(told.value)


def test_ids_are_found_by_an_unambiguous_beginning() -> None:
    known = books("abc:1")
    assert known.find("abc:1").id == ID
    with pytest.raises(NotFound, match="No such image: abc:latest"):
        Catalogue().find("abc")
    assert known.find("abc").id == ID
    with pytest.raises(NotFound, match="ambiguous"):
        known.find("ab")


def test_name_is_found_before_an_id() -> None:
    """A repository may be called like the beginning of another image's id."""
    known = books("abd:latest")
    assert known.find("abd").id == ID


def test_removed_images_are_not_found_but_kept() -> None:
    known = books("a:1")
    known.apply(Change(dropped_references=(parse_reference("a:1"),), images=(record(ID, removed=True),)))
    for ref in ("a:1", "abc", str(ID), ID.encoded):
        with pytest.raises(NotFound):
            known.find(ref)
    assert known.get(ID) is not None and known.count == 1
    assert [image.id for image in known.images()] == [OTHER]


def test_names_are_told_in_order_and_one_is_told_once() -> None:
    known = books("b:2", f"a@{DIGEST}", "b:1")
    assert [name.familiar() for name in known.references(ID)] == ["b:1", "b:2", f"a@{DIGEST}"]
    moved = {parse_reference(name): Tag(image=image, tagged_at=2) for name, image in (("b:2", ID), ("a:9", OTHER))}
    known.apply(Change(tags=moved))
    known.apply(Change(dropped_references=(parse_reference("b:1"),)))
    assert [name.familiar() for name in known.references(ID)] == ["b:2", f"a@{DIGEST}"]
    assert [name.familiar() for name in known.references(OTHER)] == ["a:9"]
    known.apply(Change(dropped_images=(ID,)))
    assert (known.references(ID), known.count) == ([], 1)


def test_an_image_is_found_at_the_same_cost_beside_ten_and_a_thousand() -> None:
    def known(count: int) -> Catalogue:
        found = Catalogue()
        found.apply(Change(images=tuple(record(Digest("sha256", f"{number:04x}" * 16)) for number in range(count))))
        return found

    few, many = known(10), known(1000)
    acts: list[Callable[[Catalogue], object]] = [lambda books: books.find("0003"), Catalogue.removed_images]
    for act in acts:
        act(few)  # warm
        assert steps(partial(act, many)) == steps(partial(act, few))
