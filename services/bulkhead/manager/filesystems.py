"""Use-cases on a container's files as a whole: export them, list what changed, commit that to an image.

None of them waits for the container's other operations, and none is waited for by them: what is read is what is there
at that moment. A commit suspends the container meanwhile, unless it is told not to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

import structlog

from bulkhead.content import trees
from bulkhead.content.blocking import Blocking
from bulkhead.content.trees import Tree
from bulkhead.content.turns import Turns
from bulkhead.content.upper import Changed
from bulkhead.errors import BulkheadError, Conflict, NotFound
from bulkhead.manager.announcements import of_container
from bulkhead.manager.exits import COMMIT
from bulkhead.manager.images.committing import Commit, Committer
from bulkhead.manager.images.instructions import apply_changes
from bulkhead.manager.ports import Change, Images, Records, Snapshots
from bulkhead.manager.stopping import Stopping
from bulkhead.model.container import Container, ContainerSpec
from bulkhead.model.image import ImageConfig, merge
from bulkhead.model.lifecycle import Phase
from bulkhead.model.reference import Reference

log = structlog.get_logger()
# Between attempts to resume a container: a shim may lack a descriptor, a disk may be full.
_RESUME_PAUSES = (0.1, 0.5, 2.0)
# How often, and how many seconds apart, it is looked whether a container that cannot be paused has ended.
_END_LOOKS, _END_PAUSE = 50, 0.02
# What the engine makes for its mounts in a root file system that has it not; Docker keeps these in a layer apart.
ENGINE_MADE = (
    ".dockerenv",
    "dev",
    "dev/console",
    "dev/mqueue",
    "dev/pts",
    "dev/shm",
    "etc",
    "etc/hostname",
    "etc/hosts",
    "etc/mtab",
    "etc/resolv.conf",
    "proc",
    "sys",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRequest:
    """What `POST /commit` says; `config` is its body's, None when it has none."""

    ref: str
    name: Reference | None = None
    author: str = ""
    comment: str = ""
    pause: bool = True
    changes: Sequence[str] = ()
    config: ContainerSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filesystems:
    """Answers about, and makes images of, containers' files."""

    records: Records
    images: Images
    snapshots: Snapshots
    stopping: Stopping
    committer: Committer
    blocking: Blocking
    turns: Turns = field(default_factory=Turns)

    async def export(self, ref: str) -> AsyncGenerator[bytes, None]:
        """The tar of everything in the container's root, without its mounts. Raises NotFound, Conflict, Internal."""
        container = self._readable(ref, "export")
        # Not `_tree`: a generator whose client has left may be closed in a task of its own, in which an asynchronous
        # context manager made of a generator does not end (seen in 3.11: "generator didn't stop after athrow()").
        with self.images.holding(container.image_id):
            tree = await self._prepared(container)
            async with contextlib.aclosing(trees.merged(tree, self.blocking)) as pieces:
                async for piece in pieces:
                    yield piece
        self._check_present(container)
        await self.records.commit(Change(events=(of_container(container, "export"),)))

    async def changes(self, ref: str) -> list[Changed]:
        """What the container added, changed and deleted. Raises NotFound, Conflict, Internal."""
        container = self._readable(ref, "look at")
        async with self._tree(container) as tree:
            found = await trees.changes(tree, self.blocking)
        self._check_present(container)
        return found

    async def commit(self, request: CommitRequest) -> str:
        """The id of the new image. Raises NotFound, Conflict, InvalidArgument for a bad change, ResourceExhausted."""
        container = self._readable(request.ref, "commit")
        config = _config(container.spec, request)
        async with self._tree(container) as tree:
            wanted = Commit(
                image_id=container.image_id,
                tree=tree,
                config=config,
                author=request.author,
                comment=request.comment,
                created_by=" ".join(container.spec.command or ()),
                name=request.name,
            )
            async with self._suspended(container, request.pause):
                image_id = await self.committer.commit(wanted)
        self._check_present(container)
        told = {
            "comment": request.comment,
            "imageID": image_id,
            "imageRef": request.name.familiar() if request.name is not None else "",
        }
        await self.records.commit(Change(events=(of_container(container, COMMIT, told),)))
        return image_id

    def _readable(self, ref: str, verb: str) -> Container:
        container = self.records.index.find(ref)
        if container.phase in (Phase.REMOVING, Phase.DEAD):
            state = "Dead" if container.phase is Phase.DEAD else "being removed"
            raise Conflict(f"You cannot {verb} container {container.id} which is {state}")
        return container

    def _check_present(self, container: Container) -> None:
        """What was read of a container that was removed meanwhile is not what it was."""
        if not self.records.index.knows(container.id):
            raise NotFound(f"No such container: {container.id}")

    @contextlib.asynccontextmanager
    async def _tree(self, container: Container) -> AsyncIterator[Tree]:
        with self.images.holding(container.image_id):
            yield await self._prepared(container)

    async def _prepared(self, container: Container) -> Tree:
        dirs = await self.snapshots.prepare(container.id, container.image_id)
        return Tree(upper=dirs.upper, lower=dirs.lower, made=ENGINE_MADE)

    @contextlib.asynccontextmanager
    async def _suspended(self, container: Container, wanted: bool) -> AsyncIterator[None]:
        """The container is paused while entered, if it runs; a manager that dies meanwhile resumes it at boot."""
        if not wanted:
            yield
            return
        # One after the other: the first would resume the container while the next one reads.
        async with self.turns.of(container.id), self._paused(container):
            yield

    @contextlib.asynccontextmanager
    async def _paused(self, container: Container) -> AsyncIterator[None]:
        if not self._is(container, Phase.RUNNING):
            yield
            return
        await self.records.commit(Change(about=container.id, intent=COMMIT))
        try:
            paused = await self._pause(container)
            try:
                yield
            finally:
                if paused:
                    await self._resume(container)
        finally:
            await self.records.commit(Change(about=container.id, done_of=COMMIT))

    async def _pause(self, container: Container) -> bool:
        """False for one that has ended meanwhile: it holds still anyway."""
        try:
            await self.stopping.pause(container.id)
        except asyncio.CancelledError:
            # Who asked has left; the container's actor pauses it all the same, and takes this after that.
            await self._resume(container)
            raise
        except Conflict:
            if await self._ends(container):
                return False
            raise
        return True

    async def _ends(self, container: Container) -> bool:
        """Whether it has ended, which its record may learn a moment later than who wants to pause it."""
        for _ in range(_END_LOOKS):
            if not self.records.index.knows(container.id) or not self.records.index.get(container.id).phase.alive:
                return True
            await asyncio.sleep(_END_PAUSE)
        return False

    async def _resume(self, container: Container) -> None:
        for pause in (*_RESUME_PAUSES, None):
            try:
                await self.stopping.unpause(container.id)
            except BulkheadError as error:
                # Killed, removed or resumed meanwhile: what its user did stands. Else its user never asked for a pause.
                if pause is None or not self._is(container, Phase.PAUSED):
                    log.info("cannot resume a committed container", container=container.id, reason=str(error))
                    return
            else:
                return
            await asyncio.sleep(pause)

    def _is(self, container: Container, phase: Phase) -> bool:
        """Whether that is its present phase."""
        index = self.records.index
        return index.knows(container.id) and index.get(container.id).phase is phase


def _config(spec: ContainerSpec, request: CommitRequest) -> ImageConfig:
    """The request's config, or the container's; then the changes; what is open after that is the container's."""
    mine = _image_config(spec)
    changed = apply_changes(mine if request.config is None else _image_config(request.config), request.changes)
    merged = merge(
        ContainerSpec(
            user=changed.user,
            exposed_ports=changed.exposed_ports,
            env=changed.env,
            entrypoint=changed.entrypoint,
            command=changed.cmd,
            volumes=changed.volumes,
            working_dir=changed.working_dir,
            labels=changed.labels,
            stop_signal=changed.stop_signal,
            healthcheck=changed.healthcheck,
            shell=changed.shell,
        ),
        mine,
    )
    return replace(_image_config(merged), on_build=changed.on_build)


def _image_config(spec: ContainerSpec) -> ImageConfig:
    return ImageConfig(
        user=spec.user,
        exposed_ports=spec.exposed_ports,
        # A name without a value took a variable away from the image: there is nothing to keep.
        env=tuple(entry for entry in spec.env if "=" in entry),
        entrypoint=spec.entrypoint,
        cmd=spec.command,
        volumes=spec.volumes,
        working_dir=spec.working_dir,
        labels=spec.labels,
        stop_signal=spec.stop_signal,
        healthcheck=spec.healthcheck,
        shell=spec.shell,
    )
