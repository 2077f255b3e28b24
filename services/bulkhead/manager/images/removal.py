"""What removing an image does: Docker's rules, decided from the books and the containers alone."""

from __future__ import annotations

from dataclasses import dataclass

from bulkhead.errors import Conflict
from bulkhead.manager.images.catalogue import Catalogue, bound_name, is_id_of
from bulkhead.manager.images.ports import ImageUsers
from bulkhead.manager.images.records import ImageRecord
from bulkhead.model.reference import Reference, parse_reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """One container of each kind that an image has, by its id: whoever is refused is told of one."""

    running: str = ""
    idle: str = ""

    @property
    def some(self) -> str:
        return self.running or self.idle


def users_of(known: ImageUsers, image: ImageRecord) -> Users:
    """The containers that were made from an image."""
    return Users(
        running=next(iter(known.running_from(str(image.id))), ""), idle=next(iter(known.idle_from(str(image.id))), "")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Which names go, and whether the image itself does."""

    image: ImageRecord
    untagged: tuple[Reference, ...]
    deleted: bool


def decide(books: Catalogue, image: ImageRecord, text: str, users: Users, *, force: bool) -> Verdict:
    """What `rmi text` means, which found `image`. Raises Conflict with Docker's texts."""
    names = books.references(image.id)
    if not is_id_of(image.id, text):
        return _by_name(image, names, text, users, force=force)
    if _is_single(names):
        _check(image, names, users, running=True, stopped=not force, referenced=False)
    else:
        _check(image, names, users, running=True, stopped=not force, referenced=not force)
    return Verdict(image=image, untagged=tuple(names), deleted=True)


def _by_name(image: ImageRecord, names: list[Reference], text: str, users: Users, *, force: bool) -> Verdict:
    if not force and users.some and _is_single(names):
        raise Conflict(
            f'conflict: unable to remove repository reference "{text}" (must force) - container '
            f"{users.some[:12]} is using its referenced image {image.id.short}"
        )
    removed = [bound_name(parse_reference(text))]
    left = [name for name in names if name not in removed]
    if removed[0].digest is None and not any(_is_tag_of(name, removed[0]) for name in left):
        # The last tag of a repository takes the repository's digests along.
        removed += [name for name in left if name.name == removed[0].name]
        left = [name for name in left if name not in removed]
    return Verdict(image=image, untagged=tuple(removed), deleted=not left and not _keeps(image, users, force=force))


def _keeps(image: ImageRecord, users: Users, *, force: bool) -> bool:
    """Whether an image that just lost its last name stays, nameless, for its containers."""
    return bool(users.running or (users.idle and not force))


def _is_tag_of(name: Reference, other: Reference) -> bool:
    return name.digest is None and name.name == other.name


def _is_single(names: list[Reference]) -> bool:
    """At most one tag, and every name within one repository."""
    tags = [name for name in names if name.digest is None]
    return len(tags) <= 1 and len({name.name for name in names}) <= 1


def _check(
    image: ImageRecord, names: list[Reference], users: Users, *, running: bool, stopped: bool, referenced: bool
) -> None:
    if running and users.running:
        raise _conflict(image, "cannot be forced", f"image is being used by running container {users.running[:12]}")
    if referenced and names:
        raise _conflict(image, "must be forced", "image is referenced in multiple repositories")
    if stopped and users.idle:
        raise _conflict(image, "must be forced", f"image is being used by stopped container {users.idle[:12]}")


def _conflict(image: ImageRecord, force: str, reason: str) -> Conflict:
    return Conflict(f"conflict: unable to delete {image.id.short} ({force}) - {reason}")
