"""Use-cases on images that are here: find, list, look at, name, remove, prune."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from bulkhead.content.manifests import Platform
from bulkhead.content.platforms import fits, parse_platform
from bulkhead.errors import Conflict, InvalidArgument, NotFound
from bulkhead.manager.images import filters
from bulkhead.manager.images.catalogue import Change, Tag, bound_name, no_such_image
from bulkhead.manager.images.collector import Collector
from bulkhead.manager.images.filters import Filters
from bulkhead.manager.images.leases import Kind, Leases
from bulkhead.manager.images.ledger import Ledger
from bulkhead.manager.images.ports import ImageUsers, Publish
from bulkhead.manager.images.records import ImageRecord, ResolvedImage
from bulkhead.manager.images.removal import Verdict, decide, users_of
from bulkhead.model.digest import Digest
from bulkhead.model.filters import boolean, check_keys
from bulkhead.model.image import ImageHistory
from bulkhead.model.reference import Reference, parse_tag_target

Find = Callable[[str], ImageRecord]


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """An image and what it is called, in familiar form; times are Unix nanoseconds."""

    record: ImageRecord
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    tagged_at: int = 0
    containers: int = 0
    container_ids: tuple[str, ...] = ()
    shared_size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryLine:
    """One step of an image's making, newest first; `id` and `tags` are known of the newest alone."""

    id: str
    created_at: int
    created_by: str
    tags: tuple[str, ...]
    size: int
    comment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What a removal did, in order: either a name that was taken away or an id that was deleted."""

    untagged: str = ""
    deleted: str = ""


class ImageStore:
    """The images of one installation."""

    def __init__(
        self, ledger: Ledger, leases: Leases, collector: Collector, publish: Publish, users: ImageUsers
    ) -> None:
        self._ledger = ledger
        self._books = ledger.books
        self._leases = leases
        self._collector = collector
        self._publish = publish
        self._users = users

    async def resolve(self, ref: str, platform: str = "") -> ResolvedImage:
        """The image a user means: a name, then an id or the beginning of one.

        Raises InvalidArgument, NotFound (`No such image: x:latest`), NotFound when it is for another `platform`.
        """
        image = self._books.find(ref)
        if platform:
            _check_platform(image, parse_platform(platform), ref)
        names = self._books.references(image.id)
        return ResolvedImage(
            id=str(image.id),
            config=image.config,
            reference=names[0].familiar() if names else str(image.id),
            chain_ids=tuple(str(layer.chain_id) for layer in image.layers),
        )

    @contextlib.contextmanager
    def holding(self, image_id: str) -> Iterator[None]:
        """Nobody removes the image while entered."""
        key = (Kind.IMAGE, Digest.parse(image_id))
        self._leases.take(key)
        try:
            yield
        finally:
            self._leases.drop(key)

    def size(self, image_id: str) -> int:
        """Bytes of an image's layers, unpacked. Cheap: each of many containers has its image asked for it."""
        image = self._books.get(Digest.parse(image_id))
        if image is None:
            raise no_such_image(image_id)
        return image.size

    def chains_of(self, image_id: str) -> tuple[Digest, ...]:
        """An image's layers by chain id, base first; also of one that only containers still need."""
        image = self._books.get(Digest.parse(image_id))
        if image is None:
            raise no_such_image(image_id)
        return tuple(layer.chain_id for layer in image.layers)

    def count(self) -> int:
        """How many images there are."""
        return self._books.count

    def select(self, wanted: Filters, *, container_ids: bool = False) -> list[Named]:
        """Images that fit, newest first. Raises InvalidArgument for filters that are not Docker's."""
        check_keys(wanted, filters.OF_LIST)
        selection = _Selection.of(wanted, self._books.find)
        chosen = ((image, self._chosen(image, selection)) for image in self._books.images() if selection.fits(image))
        found = [self._named(image, names, container_ids=container_ids) for image, names in chosen if names is not None]
        return sorted(found, key=lambda named: (-named.record.created_at, str(named.record.id)))

    def inspect(self, ref: str, *, container_ids: bool = False) -> Named:
        """One image and its names."""
        image = self._books.find(ref)
        return self._named(image, self._books.references(image.id), container_ids=container_ids)

    def history(self, ref: str) -> list[HistoryLine]:
        """How an image was made, newest step first."""
        image = self._books.find(ref)
        names = self._books.references(image.id)
        tags = tuple(name.familiar() for name in names if name.digest is None)
        sizes = iter(layer.size for layer in image.layers)
        steps = image.config.history or tuple(ImageHistory() for _ in image.layers)
        lines = [_line(step, 0 if step.empty_layer else next(sizes, 0)) for step in steps]
        if lines:
            lines[-1] = replace(lines[-1], id=str(image.id), tags=tags)
        return lines[::-1]

    async def tag(self, ref: str, target: str) -> None:
        """Give an image another name, taking it from whichever image had it."""
        name = parse_tag_target(target, None)

        def decide_tag() -> tuple[Change, Digest]:
            image = self._books.find(ref)
            return Change(tags={bound_name(name): Tag(image=image.id, tagged_at=time.time_ns())}), image.id

        image_id = await self._ledger.change(decide_tag)
        await self._announce("tag", image_id, name.familiar())

    async def remove(self, ref: str, *, force: bool = False) -> list[Removed]:
        """Take a name away; delete the image with its last one. Raises NotFound, Conflict with Docker's texts."""
        removed, _ = await self._remove(ref, force=force)
        return removed

    async def prune(self, wanted: Filters) -> tuple[list[Removed], int]:
        """Remove images that nobody uses: nameless ones, with `dangling=false` all; what, and bytes freed."""
        check_keys(wanted, filters.OF_PRUNE)
        dangling_only = boolean(wanted, "dangling") is not False
        selection = _Selection.of({name: values for name, values in wanted.items() if name != "dangling"}, None)
        removed: list[Removed] = []
        freed = 0
        for image in [image for image in self._books.images() if selection.fits(image)]:
            for ref in self._prunable(image, dangling_only=dangling_only):
                with contextlib.suppress(Conflict, NotFound):
                    items, space = await self._remove(ref, force=False)
                    removed += items
                    freed += space
        freed += await self._collector.drop_unused() + await self._collector.sweep(0)
        await self._publish("image", "prune", "", {"reclaimed": str(freed)})
        return removed, freed

    def disk_usage(self) -> int:
        """Bytes of every layer and every blob, once each, those of unfinished pulls included."""
        layers = {layer.chain_id: layer.size for image in self._books.all_images() for layer in image.layers}
        return sum(layers.values()) + self._collector.stored_bytes()

    def unused(self, before: int) -> list[ImageRecord]:
        """Images that nothing needs and that came before (Unix nanoseconds), the oldest first."""
        came = {
            image.id: max(self._books.tagged_at(image.id), self._collector.stored_at(image.manifest))
            for image in self._books.images()
            if not users_of(self._users, image).some and not self._leases.is_held(Kind.IMAGE, image.id)
        }
        found = [image for image in self._books.images() if came.get(image.id, before) < before]
        return sorted(found, key=lambda image: came[image.id])

    async def evict(self, image: ImageRecord) -> int:
        """Remove an image that nobody uses with all its names; bytes freed, 0 when somebody uses it by now."""
        freed = 0
        for ref in self._prunable(image, dangling_only=False):
            with contextlib.suppress(Conflict, NotFound):
                freed += (await self._remove(ref, force=False))[1]
        return freed

    def _chosen(self, image: ImageRecord, selection: _Selection) -> list[Reference] | None:
        """Those of an image's names that were asked for; None when it is not in the list."""
        names = self._books.references(image.id)
        if selection.patterns:
            names = [name for name in names if any(filters.name_fits(pattern, name) for pattern in selection.patterns)]
            if not names:
                return None
        dangling = not any(name.digest is None for name in names)
        if selection.dangling is not None and selection.dangling != dangling:
            return None
        return names

    def _named(self, image: ImageRecord, names: Sequence[Reference], *, container_ids: bool) -> Named:
        running, idle = self._users.running_from(str(image.id)), self._users.idle_from(str(image.id))
        return Named(
            record=image,
            repo_tags=tuple(name.familiar() for name in names if name.digest is None),
            repo_digests=tuple(name.familiar() for name in names if name.digest is not None),
            tagged_at=self._books.tagged_at(image.id),
            containers=len(running) + len(idle),
            container_ids=(*running, *idle) if container_ids else (),
            shared_size=self._books.shared_size(image),
        )

    def _prunable(self, image: ImageRecord, *, dangling_only: bool) -> list[str]:
        """The references whose removal removes an image that may go."""
        names = self._books.references(image.id)
        if not names:
            return [str(image.id)]
        if dangling_only and any(name.digest is None for name in names):
            return []
        # Its users would keep it, and it would lose its name for nothing.
        if users_of(self._users, image).some:
            return []
        return [name.familiar() for name in names]

    async def _remove(self, ref: str, *, force: bool) -> tuple[list[Removed], int]:
        def decide_removal() -> tuple[Change, tuple[Verdict, bool]]:
            image = self._books.find(ref)
            users = users_of(self._users, image)
            verdict = decide(self._books, image, ref, users, force=force)
            held = self._leases.is_held(Kind.IMAGE, image.id)
            if held and verdict.deleted and not force:
                raise Conflict(
                    f"conflict: unable to delete {image.id.short} (must be forced) - image is being used by an "
                    "operation under way"
                )
            kept = held or bool(users.some)
            return _change(verdict, kept=kept), (verdict, kept)

        verdict, kept = await self._ledger.change(decide_removal)
        gone = [] if kept or not verdict.deleted else [verdict.image]
        layers = _top_down(verdict.image) if gone else []
        freed = await self._collector.free(gone)
        await self._announce_removal(verdict)
        removed = [Removed(untagged=name.familiar()) for name in verdict.untagged]
        if verdict.deleted:
            removed.append(Removed(deleted=str(verdict.image.id)))
            removed += [Removed(deleted=str(chain)) for chain in layers if self._books.layer(chain) is None]
        return removed, freed

    async def _announce_removal(self, verdict: Verdict) -> None:
        for _ in verdict.untagged:
            await self._announce("untag", verdict.image.id, str(verdict.image.id), verdict.image)
        if verdict.deleted:
            await self._announce("delete", verdict.image.id, str(verdict.image.id), verdict.image)

    async def _announce(self, action: str, image_id: Digest, name: str, image: ImageRecord | None = None) -> None:
        known = image or self._books.get(image_id)
        labels = known.config.labels if known is not None else {}
        await self._publish("image", action, str(image_id), {**labels, "name": name})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Selection:
    """Conditions on an image."""

    dangling: bool | None
    labels: tuple[filters.LabelFilter, ...]
    unwanted_labels: tuple[filters.LabelFilter, ...]
    patterns: tuple[str, ...]
    older_than: int | None
    newer_than: int | None
    until: int | None

    @staticmethod
    def of(wanted: Filters, find: Find | None) -> _Selection:
        return _Selection(
            dangling=boolean(wanted, "dangling"),
            labels=filters.labels(wanted),
            unwanted_labels=filters.labels(wanted, "label!"),
            patterns=tuple(wanted.get("reference", ())),
            older_than=_moment_of(wanted, "before", find),
            newer_than=_moment_of(wanted, "since", find),
            until=filters.until(wanted),
        )

    def fits(self, image: ImageRecord) -> bool:
        """Whether an image meets all conditions that are not about its names."""
        labels = image.config.labels
        return (
            all(label.fits(labels) for label in self.labels)
            and not any(label.fits(labels) for label in self.unwanted_labels)
            and (self.older_than is None or image.created_at < self.older_than)
            and (self.newer_than is None or image.created_at > self.newer_than)
            and (self.until is None or 0 < image.created_at <= self.until)
        )


def _moment_of(wanted: Filters, name: str, find: Find | None) -> int | None:
    given = wanted.get(name, ())
    if not given or find is None:
        return None
    if len(given) > 1:
        raise InvalidArgument(f"invalid filter '{name}': more than one value")
    return find(given[0]).created_at


def _change(verdict: Verdict, *, kept: bool) -> Change:
    """What a verdict does to the books; containers keep a deleted image's layers."""
    if not verdict.deleted:
        return Change(dropped_references=verdict.untagged)
    if kept:
        return Change(dropped_references=verdict.untagged, images=(replace(verdict.image, removed=True),))
    return Change(dropped_references=verdict.untagged, dropped_images=(verdict.image.id,))


def _check_platform(image: ImageRecord, wanted: Platform, ref: str) -> None:
    config = image.config
    offered = Platform(os=config.os, architecture=config.architecture, variant=config.variant)
    if not fits(offered, wanted):
        text = "/".join(part for part in (wanted.os, wanted.architecture, wanted.variant) if part)
        raise NotFound(
            f"image with reference {ref} was found but does not match the specified platform: "
            f"wanted {text}, actual: {config.platform}"
        )


def _line(step: ImageHistory, size: int) -> HistoryLine:
    return HistoryLine(
        id="<missing>",
        created_at=filters.created(step.created),
        created_by=step.created_by,
        tags=(),
        size=size,
        comment=step.comment,
    )


def _top_down(image: ImageRecord) -> Sequence[Digest]:
    return [layer.chain_id for layer in reversed(image.layers)]
