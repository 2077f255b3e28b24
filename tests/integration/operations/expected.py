"""What each operation of the Engine API costs, exactly. The table that speed is kept by.

Whoever makes an operation cheaper lowers its row in the same commit. Whoever must make one dearer raises it, and says
in the commit what that buys.

forks         processes, by who forks; a shim is one that was another container's before
fsyncs        fsync(2) and fdatasync(2), SQLite's too
netlink       messages by family; inside: to the container's own namespace
nft           transactions; what is only asked depends on what other tables the machine has
rpc           calls between the services and of shims; the wait for an exit is one
sql           of the manager: transactions, and the statements in them; several that wait share a BEGIN and a COMMIT
copied        bytes that pass through a process for each byte of the layer that is pulled, rounded to tenths
"""

from __future__ import annotations

LIFE: dict[str, dict[str, int]] = {
    # Its shim is launched ahead of its start.
    "create": {
        "fsyncs manager": 1,
        "rpc manager Create": 1,
        "rpc supervisor Launch": 1,
        "sql statements": 2,
        "sql transactions": 1,
    },
    "start": {
        "forks shim": 1,
        "rpc manager Start": 1,
        "rpc shim Create": 1,
        "rpc shim Wait": 1,
        "sql statements": 5,
        "sql transactions": 2,
    },
    # Attached: created, started, its exit code not asked for.
    "exec": {
        "forks shim": 2,
        "rpc shim NewExecs": 1,
        "sql statements": 4,
        "sql transactions": 1,
    },
    # By SIGKILL.
    "exit": {
        "fsyncs manager": 1,
        "rpc manager Kill": 1,
        "rpc shim Kill": 1,
        "rpc shim State": 1,
        "sql statements": 4,
        "sql transactions": 2,
    },
    "remove": {"fsyncs manager": 1, "rpc manager Remove": 1, "sql statements": 3, "sql transactions": 1},
}
# What differs for a container with a network and a published port.
BRIDGE: dict[str, dict[str, int]] = {
    "start": {"netlink inside": 1, "nft transactions": 1, "netlink route": 2},
    "exit": {"nft transactions": 1, "netlink route": 1, "sql statements": 5},
}
PULL: dict[str, int] = {
    "forks manager": 1,
    "fsyncs manager": 8,
    "rpc manager Pull": 1,
    "sql statements": 10,
    "sql transactions": 4,
}
COPIED: dict[str, float] = {"read manager": 2.1, "written manager": 2.0, "written registry": 1.0}
