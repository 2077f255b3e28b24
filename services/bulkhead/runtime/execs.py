"""Further processes in a container, whoever launched that: they share its namespaces, cgroup and confinement."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from bulkhead import failpoints, nsexec
from bulkhead.errors import Conflict, Internal, InvalidArgument
from bulkhead.nsexec import Launch, SpawnError
from bulkhead.nsexec.plan import Encoded, Flag, Plan
from bulkhead.runtime import answers, luggage, translate, validate
from bulkhead.runtime.conversation import Conversation, Trace, kill_and_reap
from bulkhead.runtime.failures import EXEC
from bulkhead.runtime.planned import Planned
from bulkhead.runtime.rootfs import StdioFds
from bulkhead.runtime.stage import Entrance, Spaces, outfit_of, spawn, unspawned
from bulkhead.runtime.task import Task, ended_by_itself, group_of, reaped_or_dead

Config = Mapping[str, Any]

# Who joins a container can be held up by it; longer than any honest launch, shorter than our callers wait.
_JOIN_SECONDS = 8.0
# A plain number: the enumeration asks, of each sum of flags, which member that is.
_BECOME_ROOT = int(Flag.BECOME_ROOT)


@dataclass(slots=True, kw_only=True)
class ExecProcess:
    """A further process in a container, already running, or on its way to that. pidfd and console are the caller's."""

    pid: int
    pidfd: int
    console: int | None = None
    warnings: tuple[str, ...] = ()
    _conversation: Conversation | None = field(default=None, repr=False)

    def settle(self) -> None:
        """Returns when it has come to its program, which it need not have done before if that was asked for.

        Raises what `exec_planned` raises; the process is dead and reaped then.
        """
        conversation, self._conversation = self._conversation, None
        if conversation is None:
            return
        try:
            if not ended_by_itself(self.pidfd):
                conversation.until_running()
        except BaseException:
            kill_and_reap(self.pidfd)
            raise
        finally:
            conversation.launch.disconnect()


def exec_(
    *,
    task: Task,
    config: Config,
    process: Config,
    stdio: StdioFds,
    bundle: str = "",
    preserve_fds: int = 0,
    new_keyring: bool = True,
    trace: Trace | None = None,
) -> ExecProcess:
    """Run a further process in the container, whoever launched that: its namespaces, cgroup and confinement.

    LaunchFailed when it cannot be brought to exec, Conflict when the container is paused or has stopped.
    """
    config = translate.resolved(config, bundle)
    merged = translate.merged_process(config, process)
    validate.further(merged)
    plan = translate.exec_plan(config, merged)
    plan = translate.in_manner(plan, preserved=preserve_fds, keyring=new_keyring)
    _refuse_frozen(task)
    with ExitStack() as undo:
        came = [task.pidfd, *luggage.preserved(preserve_fds)]
        if translate.opens_for_users(config):
            luggage.give_stdio(stdio, task.pid)
        with _affinity(translate.first_affinity(merged)):
            conversation = _begin_exec(plan, task, stdio, came, undo)
        conversation.follow(trace)
        answers.expect(conversation, config, container_id=task.container_id, bundle=bundle)
        conversation.until_running()
        conversation.raise_limits(plan.rlimits)
        undo.pop_all()
    return _running(conversation, translate.warnings(merged))


def exec_planned(
    *,
    task: Task,
    planned: Planned,
    stdio: StdioFds,
    ready: ReadyExec | None = None,
    begun: Callable[[], None] | None = None,
    settled: bool = True,
) -> ExecProcess:
    """The same, for a launch that was worked out before, and may have been made `ready` for all of this; `begun` is
    called while its process is on its way. Unless it is to be `settled`, its caller goes on while the process comes to
    its program, and is not disturbed by that: `ExecProcess.settle`.

    Raises what `exec_` raises.
    """
    _refuse_frozen(task)
    with ExitStack() as undo:
        if planned.plan.flags & _BECOME_ROOT:
            luggage.give_stdio(stdio, task.pid)
        if ready is not None and ready.fits():
            conversation = ready.begin(task, undo)
        else:
            conversation = _begin_exec(planned.plan, task, stdio, [task.pidfd], undo)
        if begun is not None:
            begun()
        if settled:
            conversation.until_running()
        else:
            conversation.until_forked()
        conversation.raise_limits(planned.plan.rlimits)
        undo.pop_all()
    return _running(conversation, planned.warnings, settled=settled)


class ReadyExec:
    """What `exec_planned` needs for a process that may be wanted soon, made before: nothing in it can change meanwhile,
    and nothing of the container has been touched. `close` it in any case."""

    def __init__(self, *, task: Task, planned: Planned, stdio: StdioFds) -> None:
        """Raises Internal, and InvalidArgument."""
        self.planned = planned
        self._entrance: Entrance | None = None
        try:
            self._entrance = task.entrance()
            outfit = outfit_of(planned.plan, self._entrance, stdio)
            self._unborn = nsexec.Unborn(
                outfit.plan,
                cgroup_fd=outfit.group,
                stdio=outfit.stdio,
                extra_fds=[task.pidfd],
                task_fds=outfit.tasks,
            )
        except (OSError, SpawnError) as error:
            self.close()
            raise Internal(f"cannot make a process ready: {error}") from error

    @staticmethod
    def fits() -> bool:
        """Whether it may be used: what is set to fail is to fail where it is begun."""
        return not failpoints.any_set()

    def begin(self, task: Task, undo: ExitStack) -> Conversation:
        if reaped_or_dead(task.pidfd):
            raise _stopped(task)
        try:
            launch = self._unborn.begin()
        except SpawnError as error:
            raise unspawned(error, EXEC) from error
        finally:
            self.close()  # it has its own by now
        return _joining(launch, undo)

    def close(self) -> None:
        self._entrance = None


def _refuse_frozen(task: Task) -> None:
    if task.is_frozen():  # the stage would freeze on joining, and its launcher with it
        raise Conflict(f"Container {task.container_id} is paused, unpause the container before exec")


def _running(conversation: Conversation, left_out: Sequence[str], *, settled: bool = True) -> ExecProcess:
    launch = conversation.launch
    if settled:
        launch.disconnect()
    return ExecProcess(
        pid=launch.pid,
        pidfd=launch.pidfd,
        console=conversation.take_console(),
        warnings=(*conversation.warnings, *left_out),
        _conversation=None if settled else conversation,
    )


def _begin_exec(
    plan: Plan | Encoded, task: Task, stdio: StdioFds, came: Sequence[int], undo: ExitStack
) -> Conversation:
    if reaped_or_dead(task.pidfd):
        raise _stopped(task)
    try:
        launch = spawn(plan, Spaces(), group_of(task), stdio, came, EXEC)
    except FileNotFoundError:
        raise _stopped(task) from None
    return _joining(launch, undo)


def _stopped(task: Task) -> Conflict:
    return Conflict(f"cannot exec in container {task.container_id}: it has stopped")


def _joining(launch: Launch, undo: ExitStack) -> Conversation:
    launch.limit(_JOIN_SECONDS)
    conversation = Conversation(launch, EXEC, forks=True)
    undo.callback(conversation.abandon)
    return conversation


@contextlib.contextmanager
def _affinity(cpus: frozenset[int] | None) -> Iterator[None]:
    """Be on these processors while the stage is born: it joins its cgroup from there."""
    if not cpus:
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        raise InvalidArgument(f"cannot run on processors {sorted(cpus)}: {error.strerror}") from error
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
