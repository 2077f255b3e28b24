"""Interfaces that go over to another network namespace, with their permanent addresses (OCI's linux.netDevices)."""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass

from bulkhead.linux.netlink import Netlink, attribute, attributes, link_up, message
from bulkhead.linux.netns import in_netns

_NEWLINK, _NEWADDR, _GETADDR = 16, 20, 22
_CREATE, _REPLACE = 0x400, 0x100
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_IFLA_IFNAME, _IFLA_NET_NS_FD = 3, 28
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_UP, _PERMANENT, _UNIVERSE = 1, 0x80, 0
_KEPT = (_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Address:
    family: int
    prefix: int
    settings: bytes

    def request(self, index: int) -> bytes:
        body = _IFADDR.pack(self.family, self.prefix, _PERMANENT, _UNIVERSE, index)
        return message(_NEWADDR, _CREATE | _REPLACE, body + self.settings)


def move(name: str, netns: int, new_name: str) -> None:
    """Move the interface `name` of this network namespace to `netns`, up and called `new_name`. OSError names it."""
    try:
        with Netlink() as here:
            index = next((link.index for link in here.links() if link.name == name), 0)
            if not index:
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
            kept = [found for body in here.dump(_GETADDR, _IFADDR.pack(0, 0, 0, 0, 0)) if (found := _kept(body, index))]
            here.request(_change(index, 0, b""), _change(index, 0, _destination(netns, new_name)))
        in_netns(netns, lambda: _settle(new_name, kept))
    except OSError as error:
        error.filename = name
        raise


def _kept(body: bytes, index: int) -> _Address | None:
    """An address that somebody gave for good; the kernel makes the link-local ones anew."""
    family, prefix, flags, scope, owner = _IFADDR.unpack_from(body)
    found = attributes(body[_IFADDR.size :])
    if _IFA_FLAGS in found:
        flags = struct.unpack("=I", found[_IFA_FLAGS])[0]
    if owner != index or scope != _UNIVERSE or not flags & _PERMANENT:
        return None
    settings = b"".join(attribute(kind, found[kind]) for kind in _KEPT if kind in found)
    return _Address(family=family, prefix=prefix, settings=settings)


def _destination(netns: int, new_name: str) -> bytes:
    return attribute(_IFLA_NET_NS_FD, struct.pack("=I", netns)) + attribute(_IFLA_IFNAME, new_name.encode() + b"\0")


def _change(index: int, flags: int, settings: bytes) -> bytes:
    return message(_NEWLINK, 0, _IFINFO.pack(socket.AF_UNSPEC, 0, index, flags, _UP) + settings)


def _settle(name: str, addresses: list[_Address]) -> None:
    with Netlink() as there:
        index = next(link.index for link in there.links() if link.name == name)
        there.request(*(address.request(index) for address in addresses), link_up(index))
