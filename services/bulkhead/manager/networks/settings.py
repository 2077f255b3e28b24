"""The settings of a container's interfaces (`--sysctl net.ipv4.conf.eth0.forwarding=0`).

Docker's runtimes write a container's sysctls when its networks are there: one of an interface finds it, and what
interfaces to come are born with is not what those got. Where the runtime is done before it is plugged in, whoever plugs
writes these.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from bulkhead.errors import LaunchFailed

# Of one interface, of `all`, or of what the next is born with (`default`). Nothing that leads elsewhere.
_OF_INTERFACES = re.compile(r"net/(?:ipv4|ipv6|mpls)/(?:conf|neigh)/(?!\.{1,2}/)[^/\0]+/[a-z0-9_]+")
_REFUSED = (
    "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process"
)


def of_interfaces(sysctls: Mapping[str, str]) -> dict[str, str]:
    """Those that depend on which interfaces there are: path under /proc/sys -> value."""
    paths = {_path(key): value for key, value in sysctls.items()}
    return {path: value for path, value in paths.items() if _OF_INTERFACES.fullmatch(path)}


def of_no_interface(sysctls: Mapping[str, str]) -> dict[str, str]:
    """The others, as they were named."""
    return {key: value for key, value in sysctls.items() if not _OF_INTERFACES.fullmatch(_path(key))}


def refusal(path: str, error: OSError) -> LaunchFailed:
    """What a runtime says when the kernel does not take a setting."""
    number = error.errno or 0
    return LaunchFailed(
        f"{_REFUSED}: sysctl {path}: {os.strerror(number).lower()}: unknown", step="sysctl", errno=number
    )


def _path(key: str) -> str:
    return key if "/" in key else key.replace(".", "/")
