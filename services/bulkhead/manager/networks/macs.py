"""The MACs of containers' interfaces: what goes with an address, and what a user has asked for."""

from __future__ import annotations

import hashlib

from bulkhead.errors import InvalidArgument
from bulkhead.model.network import MAC, IPAddress


def mac_of(address: IPAddress) -> str:
    """The MAC that goes with an address: whoever has it cached stays right when the address moves on."""
    tail = address.packed if address.version == 4 else hashlib.sha256(address.packed).digest()[:4]
    return bytes((0x02, 0x42, *tail)).hex(":")


def parse_mac(text: str) -> str:
    """A unicast MAC in lower case with colons."""
    mac = text.lower().replace("-", ":")
    if not MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise InvalidArgument(f"invalid MAC address: {text}")
    return mac
