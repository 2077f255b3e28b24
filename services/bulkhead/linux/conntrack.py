"""Connection tracking (ctnetlink, linux/netfilter/nfnetlink_conntrack.h): find UDP flows, forget them. Raises OSError.

The kernel decides once per flow where it is translated to, and a UDP flow lives as long as packets
come: a client that never pauses would be sent to yesterday's container for ever.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from bulkhead.linux.netlink import Netlink, attribute, attributes, message, nest

_NFGENMSG = struct.Struct("!BBH")  # family, version, resource
_GET, _DELETE = 0x0101, 0x0102
_TUPLE_ORIGINAL, _ZONE, _FILTER = 1, 18, 25
_TUPLE_IP, _TUPLE_PROTOCOL = 1, 2
_DESTINATIONS = (2, 4)  # an IPv4 address, an IPv6 one
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_PROTOCOL_NUMBER, _DESTINATION_PORT = 1, 3
_FILTER_ORIGINAL = 1
# Compare the protocol's number and the destination port; Linux before 5.8 compares nothing.
_FILTER_FLAGS = 1 << 3 | 1 << 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A UDP flow, by the address and port that its client sends to."""

    destination: IPv4Address | IPv6Address
    port: int
    original: bytes  # how the kernel names it
    zone: bytes | None


def udp_flows(kernel: Netlink, port: int, version: int) -> Iterator[Flow]:
    """The UDP flows of a family (4, 6) to a destination port. `kernel` is a netfilter socket.

    The kernel walks through all the flows it knows.
    """
    wanted = attribute(_PROTOCOL_NUMBER, bytes((socket.IPPROTO_UDP,))) + attribute(
        _DESTINATION_PORT, struct.pack("!H", port)
    )
    asked = nest(_TUPLE_ORIGINAL, nest(_TUPLE_PROTOCOL, wanted))
    asked += nest(_FILTER, attribute(_FILTER_ORIGINAL, struct.pack("=I", _FILTER_FLAGS)))
    for answer in kernel.dump(_GET, _NFGENMSG.pack(_FAMILIES[version], 0, 0) + asked):
        flow = _flow(answer)
        if flow is not None and flow.port == port:
            yield flow


def forget(kernel: Netlink, flow: Flow) -> None:
    """Delete a flow; no error if it is gone. Its next packet is judged anew."""
    body = _NFGENMSG.pack(_FAMILIES[flow.destination.version], 0, 0) + nest(_TUPLE_ORIGINAL, flow.original)
    if flow.zone is not None:
        body += attribute(_ZONE, flow.zone)
    try:
        kernel.request(message(_DELETE, 0, body))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def _flow(answer: bytes) -> Flow | None:
    """One entry of the dump; None when it is not UDP."""
    found = attributes(answer[_NFGENMSG.size :])
    original = attributes(found[_TUPLE_ORIGINAL])
    protocol = attributes(original[_TUPLE_PROTOCOL])
    if protocol[_PROTOCOL_NUMBER][0] != socket.IPPROTO_UDP:
        return None
    addresses = attributes(original[_TUPLE_IP])
    return Flow(
        destination=next(ip_address(addresses[which]) for which in _DESTINATIONS if which in addresses),
        port=int.from_bytes(protocol[_DESTINATION_PORT], "big"),
        original=found[_TUPLE_ORIGINAL],
        zone=found.get(_ZONE),
    )
