"""Sysctls of the network namespace in which the calling thread stands; paths are those under /proc/sys."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from bulkhead.errors import Unavailable

ROOT = Path("/proc/sys")
_IPV6 = "net/ipv6/conf"


def configure(settings: Mapping[str, str]) -> tuple[str, ...]:
    """Have sysctls so; the paths of those that were not."""
    return tuple(path for path, value in settings.items() if _set(path, value))


def _set(path: str, value: str) -> bool:
    """Write a sysctl if it differs; whether it did. One that this kernel does not have is nothing to set.

    With bare calls: three of each bridge are looked at whenever all is.
    """
    found = setting(path)
    if found in (None, value):
        return False
    write(path, value)
    return True


def setting(path: str) -> str | None:
    """The value of a sysctl; None when there is none, its interface being gone, say."""
    try:
        file = os.open(f"{ROOT}/{path}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(file, 4096).decode().strip()
        finally:
            os.close(file)
    except FileNotFoundError:
        return None


def write(path: str, value: str) -> None:
    """Write a sysctl, if this kernel has it. With bare calls: it is done for every container."""
    try:
        file = os.open(f"{ROOT}/{path}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(file, value.encode())
        finally:
            os.close(file)
    except FileNotFoundError:
        return
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: {ROOT}/{path} = {value}") from error


def forward_ipv6() -> tuple[str, ...]:
    """A host that forwards believes no router any more, unless an interface is told to: whoever does, is."""
    if setting(f"{_IPV6}/all/disable_ipv6") in (None, "1"):
        raise Unavailable("cannot forward IPv6: this host has it disabled (net.ipv6.conf.all.disable_ipv6)")
    if setting(f"{_IPV6}/all/forwarding") == "1":
        return ()
    # Interfaces go meanwhile: each container's does.
    beliefs = [f"{_IPV6}/{place.name}/accept_ra" for place in (ROOT / _IPV6).iterdir()]
    kept = configure({path: "2" for path in beliefs if setting(path) == "1"})
    return (*kept, *configure({f"{_IPV6}/all/forwarding": "1"}))
