"""The launch plan as bytes: the only writer of what csrc/plan.c reads.

    header    u32 magic "BHNP" | u16 version | u16 sections | u32 length of all | u32 0
    section   u16 tag | u16 0 | u32 entries | u32 size | size bytes      tags ascend, each at most once
    string    u32 length | bytes | NUL
    GENERAL   see _GENERAL                     JOIN      u32 CLONE_NEW* (descriptors follow in this order)
    ROOT      u32 kind, volatile, lowers | string path, upper, work | lower strings, topmost first
    MOUNTS    u32 kind, flags, propagation, options | u64 set, clear, tree set, tree clear
              | string source, target, type | options x (string key, string value; empty value = flag)
    DEVICES   u32 mode, uid, gid, major, minor | string path
    RLIMITS   u32 resource | u64 soft, hard    SYSCTL    string path, string value
    FILTER    8 bytes per instruction          TUNING    see _TUNING
    HOOKS     u32 kind, timeout, words, variables | string path | words + variables strings
    STATE     three strings: the state as JSON while creating, when created, each up to the pid; what follows it
              the rest: one string, strings, or u32 each
    FAILPOINTS  u32 for each; never part of a Plan, the process that starts the stage puts it behind

Descriptors that come with a plan are taken in this order: JOIN's, the root (ROOT_GIVEN), the mounts that are GIVEN,
the FIFO, the preserved ones.

All numbers are little-endian (both supported machines are). Change the layout, then VERSION.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

MAGIC = 0x504E4842
VERSION = 2
MAX_BYTES = 16 << 20

_HEADER = struct.Struct("<IHHII")
_SECTION = struct.Struct("<HHII")
_GENERAL = struct.Struct("<Q5QIIIiIIIIIIII")
_TUNING = struct.Struct("<IIIIIiIIQQQQ")
_MOUNT = struct.Struct("<IIIIQQQQ")
_DEVICE = struct.Struct("<IIIII")
_RLIMIT = struct.Struct("<IQQ")
_U32 = struct.Struct("<I")
_FLAGS = struct.Struct("<Q")


class Flag(enum.IntFlag):
    """enum plan_flag in csrc/plan.h."""

    EXEC = 1 << 0
    WAIT_CGROUP = 1 << 1
    NEW_CGROUP_NS = 1 << 2
    TERMINAL = 1 << 3
    NO_NEW_PRIVILEGES = 1 << 4
    ROOT_READONLY = 1 << 5
    KEYRING = 1 << 6
    LOOPBACK = 1 << 7
    FORK_EARLY = 1 << 8
    FORK_LATE = 1 << 9
    LATE_FILTER = 1 << 10
    PARK = 1 << 11
    SETUP_DEV = 1 << 12
    OOM_SCORE = 1 << 13
    CREATE_CWD = 1 << 14
    USER_CAPS = 1 << 15
    NULL_STDIN = 1 << 16
    NULL_STDOUT = 1 << 17
    NULL_STDERR = 1 << 18
    FIFO = 1 << 19
    MOVE_ROOT = 1 << 20
    CHROOT = 1 << 21
    ROOT_GIVEN = 1 << 22
    BECOME_ROOT = 1 << 23
    NO_SETGROUPS = 1 << 24
    TIME_OFFSETS = 1 << 25
    BIND_DEVICES = 1 << 26
    GO_ON = 1 << 27


class Section(enum.IntEnum):
    """enum plan_section in csrc/plan.h."""

    GENERAL = 1
    JOIN = 2
    ROOT = 3
    MOUNTS = 4
    DEVICES = 5
    MASKED = 6
    READONLY = 7
    SYSCTL = 8
    HOSTNAME = 9
    DOMAINNAME = 10
    USER = 11
    GROUPS = 12
    GROUP_NAMES = 13
    RLIMITS = 14
    CWD = 15
    ARGV = 16
    ENV = 17
    FILTER = 18
    HIDDEN = 19
    HOOKS = 20
    STATE = 21
    TUNING = 22
    AFFINITY = 23
    NODES = 24
    PROFILE = 25
    FAILPOINTS = 26


class TuningFlag(enum.IntFlag):
    """enum tuning_flag in csrc/plan.h."""

    NONE = 0
    SCHEDULER = 1 << 0
    IO_PRIORITY = 1 << 1
    PERSONALITY = 1 << 2
    MEMORY_POLICY = 1 << 3


class HookKind(enum.IntEnum):
    """Those that run inside, as enum hook_kind in csrc/plan.h has them."""

    CREATE_CONTAINER = 1
    START_CONTAINER = 2


class MountKind(enum.IntEnum):
    FILESYSTEM = 1
    BIND = 2
    SYMLINK = 3
    REMOUNT = 4


class MountFlag(enum.IntFlag):
    NONE = 0
    RECURSIVE = 1 << 0
    NOFOLLOW = 1 << 1
    IS_DEV = 1 << 2
    IS_PTS = 1 << 3
    PROC_OK = 1 << 4
    IS_PROC = 1 << 5
    NEEDS_PROC = 1 << 6
    GIVEN = 1 << 7
    COPY_UP = 1 << 8
    OR_HOST = 1 << 9


class RootKind(enum.IntEnum):
    BIND = 1
    OVERLAY = 2
    OVERLAY_CLASSIC = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One step of building the mount table. Attributes are MOUNT_ATTR_*, propagation MS_*.

    For a SYMLINK, `source` is the link's text. Options are fsconfig keys; an empty value is a flag.
    """

    kind: MountKind
    target: str
    source: str = ""
    type: str = ""
    flags: MountFlag = MountFlag.NONE
    set: int = 0
    clear: int = 0
    tree_set: int = 0
    tree_clear: int = 0
    propagation: int = 0
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """`mode` includes the S_IF* type."""

    path: str
    mode: int
    major: int = 0
    minor: int = 0
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """`path` is the source of a bind, or for an overlay any directory that nothing else needs to see."""

    kind: RootKind
    path: str
    upper: str = ""
    work: str = ""
    lower: tuple[str, ...] = ()
    volatile: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Five sets as bit masks."""

    bounding: int = 0
    effective: int = 0
    inheritable: int = 0
    permitted: int = 0
    ambient: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """`timeout` in seconds, 0 for none."""

    kind: HookKind
    path: str
    argv: tuple[str, ...]
    env: tuple[str, ...] = ()
    timeout: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How the process is scheduled and where its memory comes from; `present` says which of it counts."""

    present: TuningFlag
    personality: int = 0
    io_priority: int = 0
    memory_mode: int = 0
    policy: int = 0
    nice: int = 0
    priority: int = 0
    scheduler_flags: int = 0
    runtime: int = 0
    deadline: int = 0
    period: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What nsinit shall do. `joins` are CLONE_NEW* masks, one per descriptor passed beside the plan."""

    flags: Flag
    argv: tuple[str, ...]
    cwd: str
    env: tuple[str, ...] = ()
    root: Root | None = None
    joins: tuple[int, ...] = ()
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    masked: tuple[str, ...] = ()
    readonly: tuple[str, ...] = ()
    sysctl: tuple[tuple[str, str], ...] = ()
    hostname: str | None = None
    domainname: str | None = None
    user: str | None = None
    groups: tuple[int, ...] = ()
    group_names: tuple[str, ...] = ()
    rlimits: tuple[tuple[int, int, int], ...] = ()
    capabilities: Capabilities = field(default_factory=Capabilities)
    uid: int = 0
    gid: int = 0
    umask: int = 0o022
    oom_score_adj: int = 0
    console_size: tuple[int, int] = (0, 0)
    root_propagation: int = 0
    final_propagation: int = 0
    filter: bytes = b""
    filter_flags: int = 0
    preserved: int = 0
    unshare: int = 0
    hidden: tuple[str, ...] = ()
    hooks: tuple[Hook, ...] = ()
    state: tuple[str, str, str] | None = None
    tuning: Tuning | None = None
    affinity: tuple[int, ...] = ()
    nodes: tuple[int, ...] = ()
    profile: str | None = None

    def encode(self, more: int = 0) -> bytes:
        """The bytes, with flags `more`; ValueError when a text holds a NUL or the stage accepts no such length."""
        sections = [_frame(tag, count, body) for tag, count, body in self._sections() if count]
        length = _HEADER.size + sum(map(len, sections))
        _check_length(length)
        return _flagged(b"".join([_HEADER.pack(MAGIC, VERSION, len(sections), length, 0), *sections]), more)

    def _sections(self) -> Iterable[tuple[Section, int, bytes]]:
        yield Section.GENERAL, 1, self._general()
        yield Section.JOIN, len(self.joins), _words(self.joins)
        yield Section.ROOT, int(self.root is not None), _root(self.root) if self.root else b""
        yield Section.MOUNTS, len(self.mounts), b"".join(map(_mount, self.mounts))
        yield Section.DEVICES, len(self.devices), b"".join(map(_device, self.devices))
        yield Section.MASKED, len(self.masked), _strings(self.masked)
        yield Section.READONLY, len(self.readonly), _strings(self.readonly)
        yield Section.SYSCTL, len(self.sysctl), b"".join(map(_strings, self.sysctl))
        yield from (_optional(Section.HOSTNAME, self.hostname), _optional(Section.DOMAINNAME, self.domainname))
        yield _optional(Section.USER, self.user)
        yield Section.GROUPS, len(self.groups), _words(self.groups)
        yield Section.GROUP_NAMES, len(self.group_names), _strings(self.group_names)
        yield Section.RLIMITS, len(self.rlimits), b"".join(_RLIMIT.pack(*limit) for limit in self.rlimits)
        yield Section.CWD, 1, _string(self.cwd)
        yield Section.ARGV, len(self.argv), _strings(self.argv)
        yield Section.ENV, len(self.env), _strings(self.env)
        yield Section.FILTER, len(self.filter) // 8, self.filter
        yield Section.HIDDEN, len(self.hidden), _strings(self.hidden)
        yield Section.HOOKS, len(self.hooks), b"".join(map(_hook, self.hooks))
        yield Section.STATE, len(self.state or ()), _strings(self.state or ())
        yield Section.TUNING, int(self.tuning is not None), _tuning(self.tuning) if self.tuning else b""
        yield Section.AFFINITY, len(self.affinity), _words(self.affinity)
        yield Section.NODES, len(self.nodes), _words(self.nodes)
        yield _optional(Section.PROFILE, self.profile)

    def _general(self) -> bytes:
        caps = self.capabilities
        sets = (caps.bounding, caps.effective, caps.inheritable, caps.permitted, caps.ambient)
        numbers = (self.uid, self.gid, self.umask, self.oom_score_adj, *self.console_size)
        rest = (self.root_propagation, self.final_propagation, self.filter_flags, self.preserved, self.unshare, 0)
        return _GENERAL.pack(self.flags, *sets, *numbers, *rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A plan that was encoded before, and what its launcher must know of it."""

    data: bytes
    # Of `Flag`; the enumeration makes an object of each new sum, and remembers it in memory that forks would share.
    flags: int
    rlimits: tuple[tuple[int, int, int], ...] = ()

    def encode(self, more: int = 0) -> bytes:
        """The bytes, with flags `more`."""
        return _flagged(self.data, more)


def _check_length(length: int) -> None:
    if length > MAX_BYTES:
        raise ValueError(f"the launch plan has {length} bytes, the limit is {MAX_BYTES}")


def _flagged(data: bytes, more: int) -> bytes:
    """GENERAL is the first section, and the flags its first word."""
    if not more:
        return data
    place = _HEADER.size + _SECTION.size
    (flags,) = _FLAGS.unpack_from(data, place)
    return data[:place] + _FLAGS.pack(flags | more) + data[place + _FLAGS.size :]


def builds(data: bytes) -> bool:
    """Whether the plan makes a container; it joins one otherwise."""
    return not _FLAGS.unpack_from(data, _HEADER.size + _SECTION.size)[0] & Flag.EXEC


def with_arguments(data: bytes, arguments: Sequence[str]) -> bytes:
    """The plan with another ARGV; ValueError as from `Plan.encode`, and when `data` is no plan with one."""
    magic, version, sections, _, _ = _HEADER.unpack_from(data)
    at = _HEADER.size
    while at < len(data):
        tag, _, _, size = _SECTION.unpack_from(data, at)
        end = at + _SECTION.size + size
        if tag == Section.ARGV:
            new = _frame(Section.ARGV, len(arguments), _strings(arguments))
            length = len(data) - (end - at) + len(new)
            _check_length(length)
            head = _HEADER.pack(magic, version, sections, length, 0)
            return b"".join((head, data[_HEADER.size : at], new, data[end:]))
        at = end
    raise ValueError("the launch plan names no program")


def with_failpoints(data: bytes, words: Sequence[int]) -> bytes:
    """The plan with what its stage shall suffer, for each failpoint of the core."""
    magic, version, sections, _, _ = _HEADER.unpack_from(data)
    more = _frame(Section.FAILPOINTS, len(words), _words(words))
    return _HEADER.pack(magic, version, sections + 1, len(data) + len(more), 0) + data[_HEADER.size :] + more


def _frame(tag: Section, count: int, body: bytes) -> bytes:
    return _SECTION.pack(tag, 0, count, len(body)) + body


def _string(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    if b"\0" in raw:
        raise ValueError(f"{text!r} holds a NUL byte")
    return _U32.pack(len(raw)) + raw + b"\0"


def _strings(texts: Iterable[str]) -> bytes:
    return b"".join(map(_string, texts))


def _words(values: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def _optional(tag: Section, text: str | None) -> tuple[Section, int, bytes]:
    return (tag, 0, b"") if text is None else (tag, 1, _string(text))


def _root(root: Root) -> bytes:
    head = struct.pack("<III", root.kind, root.volatile, len(root.lower))
    return head + _strings((root.path, root.upper, root.work, *root.lower))


def _mount(mount: Mount) -> bytes:
    numbers = (mount.kind, mount.flags, mount.propagation, len(mount.options))
    head = _MOUNT.pack(*numbers, mount.set, mount.clear, mount.tree_set, mount.tree_clear)
    return head + _strings((mount.source, mount.target, mount.type)) + b"".join(map(_strings, mount.options))


def _device(device: Device) -> bytes:
    return _DEVICE.pack(device.mode, device.uid, device.gid, device.major, device.minor) + _string(device.path)


def _hook(hook: Hook) -> bytes:
    head = struct.pack("<IIII", hook.kind, hook.timeout, len(hook.argv), len(hook.env))
    return head + _strings((hook.path, *hook.argv, *hook.env))


def _tuning(tuning: Tuning) -> bytes:
    where = (tuning.present, tuning.personality, tuning.io_priority, tuning.memory_mode)
    when = (tuning.scheduler_flags, tuning.runtime, tuning.deadline, tuning.period)
    return _TUNING.pack(*where, tuning.policy, tuning.nice, tuning.priority, 0, *when)
