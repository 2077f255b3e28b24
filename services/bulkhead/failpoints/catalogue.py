"""Every failpoint's name, `<process or part>.<operation>.<where>`, and what has just been done there.

`fails` marks the places of a kernel's or a disk's refusal: there `error(E)` can be set, elsewhere only what a process
can suffer anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One place in the code."""

    tells: str
    fails: bool = False


_STEPS = {
    # creating
    "manager.create.named": "the name is reserved in memory, nothing else done",
    "manager.create.filled": "its new volumes are filled",
    "manager.create.directory": "the container's directory is made",
    "manager.create.layer": "its writable layer is made",
    "manager.create.recorded": "its record is durable",
    # starting
    "manager.start.begun": "nothing done yet",
    "manager.start.wired": "its network namespace is made and plugged in, no process is in it",
    "manager.start.created": "intent and bundle are written, the process is parked",
    "manager.start.plugged": "the process is on its networks",
    "manager.start.named": "its names and addresses are told",
    "manager.start.started": "the program runs, the record does not know",
    "manager.start.recorded": "the record knows",
    "manager.shim.launched": "a shim listens for the container",
    # an exit
    "manager.finish.begun": "the exit is known, nothing done",
    "manager.finish.recorded": "the exit is on record, the networks are free",
    "manager.finish.discarded": "the shim is gone",
    "manager.finish.released": "the shared memory is given back",
    "manager.finish.let_go": "the volumes are let go",
    # stopping, pausing
    "manager.stop.marked": "the signal is on record, not sent",
    "manager.stop.signalled": "the signal is sent",
    "manager.pause.frozen": "the processes are frozen, the record does not know",
    "manager.unpause.thawed": "the processes are thawed, the record does not know",
    "manager.pause.recorded": "a pause or its end is on record",
    # removing
    "manager.remove.begun": "nothing done yet",
    "manager.remove.discarded": "the shim is gone",
    "manager.remove.unplugged": "the networks are free",
    "manager.remove.recorded": "the record is gone, the files are there",
    "manager.remove.volumes": "its volumes' files are gone, nobody told",
    "manager.remove.layer": "its writable layer is gone, its directory is not",
    "manager.spare.named": "the emptied directory of a removed container is nobody's, it is not looked at",
    "manager.spare.furnished": "it is fit for a container to come, nobody knows it",
    "manager.spare.finished": "it is fit for its next container, and does not bear its name",
    # launching ahead of a start
    "manager.ahead.begun": "a new container's directories are there, its shim is not asked for",
    "manager.ahead.launched": "its shim is there, nobody has wanted it",
    "manager.remove.cleared": "everything is gone",
    # other changes of a container
    "manager.rename.recorded": "the new name is durable, the networks do not know it",
    "manager.update.recorded": "the new limits are durable, the kernel does not know them",
    "manager.update.applied": "the kernel knows them",
    "manager.exec.created": "the exec is on record",
    "manager.exec.expected": "an attached exec's shim is told of it, its record may be late",
    "manager.exec.registered": "the shim knows the exec, the record does not say so",
    "manager.exec.begun": "an attached exec has begun, the record does not say so",
    "manager.exec.running": "the exec is on record as running, a detached one is not started",
    "manager.exec.started": "a detached exec runs",
    "manager.exec.ended": "an exec has ended, the record does not know",
    # networks and volumes
    "manager.connect.plugged": "a running container is on one more network, nothing knows",
    "manager.connect.named": "its files and names are right, after a connect or disconnect",
    "manager.connect.recorded": "the record is right",
    "manager.disconnect.published": "its ports are answered by another network, the one it leaves is there",
    "manager.network.recorded": "a new network is durable",
    "manager.network.dropped": "a network's bridge is gone, its record is there",
    "manager.network.forgotten": "its record is gone",
    "manager.volume.marked": "a volume's record is marked as removed",
    "manager.volume.thrown": "its directory is gone",
    "manager.records.committed": "a transaction is committed, nobody told",
    # images
    "manager.pull.found": "the image's manifest is known",
    "manager.pull.fetched": "blobs and layers are there, no record",
    "manager.pull.recorded": "the image is on record",
    "manager.layer.begun": "a directory for a layer is made",
    "manager.layer.unpacked": "the layer is in it, not in its place",
    "manager.layer.discarded": "a layer is in the trash",
    "manager.images.decided": "a change of the books is about to be written",
    "manager.images.recorded": "it is written, not in memory",
    "manager.collect.condemned": "a blob is about to be deleted",
    "manager.collect.deleted": "it is deleted",
    # the API
    "api.request.begun": "a request has come",
    "api.request.answered": "it is done, and answered unless the answer was a stream",
    # launching a shim
    "supervisor.launch.taken": "a spare is taken",
    "supervisor.launch.given": "the spare is the container's shim",
    "supervisor.launch.kept": "its descriptors are being kept",
    "supervisor.spare.returned": "a shim has said that it is free, it is not among the spares",
    # the shim
    "shim.claim.locked": "the shim has the container's lock",
    "shim.claim.recorded": "its own record is written",
    "shim.claim.claimed": "it knows what an earlier shim has left",
    "shim.create.reserved": "the exit record's blocks are taken",
    "shim.create.logging": "the log is open",
    "shim.create.launched": "the process is parked, or waits to be let go on, no record of it",
    "shim.create.recorded": "the task record is written",
    "shim.start.begun": "nothing done yet",
    "shim.start.recorded": "the start is in the task record, the process was not told to go on",
    "shim.start.started": "the program runs",
    "shim.kill.begun": "a signal to everybody is about to be sent",
    "shim.pause.begun": "nothing done yet",
    "shim.pause.recorded": "the pause or its end is in the task record, not done",
    "shim.pause.frozen": "it is done",
    "shim.exit.ended": "the first process has ended, nobody has reaped it",
    "shim.exit.reaped": "it is reaped, its output not read to the end",
    "shim.exit.drained": "its output is read to the end",
    "shim.exit.recorded": "the exit record is written, and durable if somebody relies on that",
    "shim.exit.announced": "whoever waited has heard of it",
    "shim.leave.begun": "the shim leaves, told to or by itself",
    "shim.leave.removed": "the cgroup is gone",
    "shim.leave.cleared": "sockets and record are gone",
    "shim.retire.begun": "nothing is left of the container, the shim has not let go of its own",
    "shim.retire.clean": "it is as good as new, nobody knows",
    "shim.retire.told": "the supervisor was told that it is free",
    "shim.exec.begun": "an exec is about to be launched",
    "shim.exec.launched": "its process runs, nobody watches it",
    "shim.exec.ended": "it has ended, nobody told",
    # the launch
    "nsexec.spawn.cloned": "the stage is a process",
    "nsexec.proceed.begun": "the stage waits to go on",
}
_REFUSALS = {
    "manager.records.written": "a transaction is about to be committed",
    "nsexec.spawn.begun": "the stage is about to be cloned",
    # in the core, where the stage suffers it by itself: see nsexec.points
    "nsexec.child.cloned": "the stage's process is born in its namespaces, in no cgroup of v1",
    "nsexec.child.grouped": "it is in its cgroups",
    "nsexec.child.arranged": "its descriptors are in their places, it is about to execute the stage program",
    "nsexec.stage.begun": "the stage knows its plan",
    "nsexec.stage.joined": "it is in the namespaces that are joined, or made late",
    "nsexec.stage.mounted": "a new container's file systems, devices and masks are there, in the host's root",
    "nsexec.stage.pivoted": "its root is the container's",
    "nsexec.stage.confined": "it is the user, without capabilities and behind the filter; not parked",
    "nsexec.stage.released": "it may go on, and is about to execute the program",
    "disk.file.write": "a small file is about to be written beside its place",
    "disk.file.sync": "it is written, not synced",
    "disk.file.rename": "it is synced, not in its place",
    "disk.file.renamed": "it is in its place, which is not durable",
    "disk.reserved.allocate": "blocks of an exit record are about to be taken",
    "disk.reserved.sync": "the exit record is written into them, not synced",
    "disk.reserved.renamed": "it is in its place, which is not durable",
    "disk.blob.write": "a manifest or the like is about to be written beside its place",
    "disk.blob.sync": "it is written, not synced",
    "disk.blob.rename": "it is synced, not in its place",
    "disk.blob.renamed": "it is in its place, which is not durable",
    "disk.store.rename": "a blob is verified and synced, not in its place",
    "disk.store.renamed": "it is in its place, which is not durable",
    "disk.layer.rename": "a layer is unpacked, not in its place",
    "disk.layer.renamed": "it is in its place",
    "disk.object.write": "the registry is about to write an object beside its place",
    "disk.object.sync": "it is written, not synced",
    "disk.object.rename": "it is synced, not in its place",
    "disk.object.renamed": "it is in its place, which is not durable",
    "disk.object.deleted": "an object is deleted, which is not durable",
    "disk.directory.sync": "a directory's names are about to be synced",
}

POINTS: Mapping[str, Point] = MappingProxyType(
    {name: Point(tells=tells) for name, tells in _STEPS.items()}
    | {name: Point(tells=tells, fails=True) for name, tells in _REFUSALS.items()}
)
