"""Port 53 of an address inside a network namespace, answered by sockets on other ports of that address.

The sockets must not sit on port 53 themselves: a container may be a name server and bind it for every address.
An nftables table of the container's own namespace (linux/netfilter/nf_tables.h) sends there what it sends to port 53.
Bare messages without `bulkhead.linux`: whoever has names to answer pays for what is imported here, in every shim.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence

_NETFILTER = 12
_NLMSG = struct.Struct("=IHHII")
_NFGENMSG = struct.Struct("!BBH")
_BATCH_BEGIN, _BATCH_END, _SUBSYSTEM = 0x10, 0x11, 10
_NEWTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE = 0x0A00, 0x0A02, 0x0A03, 0x0A06
_F_REQUEST, _F_ACK, _F_EXCL, _F_CREATE, _F_APPEND = 0x1, 0x4, 0x200, 0x400, 0x800
_NESTED = 0x8000
_NLMSG_ERROR = 2
_OUTPUT_HOOK, _DNAT_PRIORITY = 3, -100
_ADDRESS_REGISTER, _PORT_REGISTER = 1, 2
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_META_L4PROTO = 16
_TABLE, _CHAIN = b"bulkhead_names", b"output"


def redirect(address: str, port: int, targets: dict[int, int]) -> None:
    """Send what this namespace's processes send to `address` and `port` to another port of it, by protocol number.

    In the calling process's network namespace; what an earlier call said is replaced. Raises OSError.
    """
    rules = [_rule(socket.inet_aton(address), port, protocol, target) for protocol, target in targets.items()]
    filled = [
        _about(_NEWCHAIN, _F_CREATE, _chain()),
        *(_about(_NEWRULE, _F_CREATE | _F_APPEND, rule) for rule in rules),
    ]
    table = _text(1, _TABLE)
    try:
        _commit([_about(_NEWTABLE, _F_CREATE | _F_EXCL, table), *filled])
    except FileExistsError:
        # Only then: the kernel takes milliseconds to dispose of what is deleted.
        _commit([_about(_DELTABLE, 0, table), _about(_NEWTABLE, _F_CREATE, table), *filled])


def _commit(messages: Sequence[bytes]) -> None:
    """Carry out all messages, or none. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER) as kernel:
        kernel.settimeout(5.0)
        kernel.send(_batch(_BATCH_BEGIN) + b"".join(messages) + _batch(_BATCH_END))
        for _ in messages:
            _check(kernel.recv(1 << 14))


def _check(answers: bytes) -> None:
    """Raise what the first refusal among the answers says."""
    at = 0
    while at + _NLMSG.size <= len(answers):
        length, kind, *_ = _NLMSG.unpack_from(answers, at)
        if kind == _NLMSG_ERROR:
            (code,) = struct.unpack_from("=i", answers, at + _NLMSG.size)
            if code:
                raise OSError(-code, f"nftables: {os.strerror(-code)}")
        at += (length + 3) & ~3


def _chain() -> bytes:
    hook = _attribute(1, _big(_OUTPUT_HOOK)) + _attribute(2, struct.pack("!i", _DNAT_PRIORITY))
    return _text(1, _TABLE) + _text(3, _CHAIN) + _nest(4, hook) + _text(7, b"nat")


def _rule(address: bytes, port: int, protocol: int, target: int) -> bytes:
    """`ip daddr <address> <protocol> dport <port> dnat to <address>:<target>`."""
    expressions = (
        _expression(b"payload", _loaded(_NETWORK_HEADER, 16, 4)),
        _expression(b"cmp", _equal(address)),
        _expression(b"meta", _attribute(2, _big(_META_L4PROTO)) + _attribute(1, _big(_ADDRESS_REGISTER))),
        _expression(b"cmp", _equal(bytes((protocol,)))),
        _expression(b"payload", _loaded(_TRANSPORT_HEADER, 2, 2)),
        _expression(b"cmp", _equal(struct.pack("!H", port))),
        _expression(b"immediate", _constant(_ADDRESS_REGISTER, address)),
        _expression(b"immediate", _constant(_PORT_REGISTER, struct.pack("!H", target))),
        _expression(b"nat", _translation()),
    )
    return _text(1, _TABLE) + _text(2, _CHAIN) + _nest(4, b"".join(expressions))


def _loaded(base: int, offset: int, length: int) -> bytes:
    values = (_ADDRESS_REGISTER, base, offset, length)
    return b"".join(_attribute(kind, _big(value)) for kind, value in enumerate(values, 1))


def _equal(data: bytes) -> bytes:
    return _attribute(1, _big(_ADDRESS_REGISTER)) + _attribute(2, _big(0)) + _nest(3, _attribute(1, data))


def _constant(register: int, data: bytes) -> bytes:
    return _attribute(1, _big(register)) + _nest(2, _attribute(1, data))


def _translation() -> bytes:
    fields = {1: 1, 2: socket.AF_INET, 3: _ADDRESS_REGISTER, 5: _PORT_REGISTER}  # type DNAT, family, registers
    return b"".join(_attribute(kind, _big(value)) for kind, value in fields.items())


def _expression(name: bytes, data: bytes) -> bytes:
    return _nest(1, _text(1, name) + _nest(2, data))


def _about(kind: int, flags: int, body: bytes) -> bytes:
    return _message(kind, flags | _F_REQUEST | _F_ACK, _NFGENMSG.pack(socket.AF_INET, 0, 0) + body)


def _batch(kind: int) -> bytes:
    return _message(kind, _F_REQUEST, _NFGENMSG.pack(socket.AF_UNSPEC, 0, _SUBSYSTEM))


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return _NLMSG.pack(_NLMSG.size + len(body), kind, flags, 0, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _nest(kind: int, value: bytes) -> bytes:
    return _attribute(kind | _NESTED, value)


def _text(kind: int, value: bytes) -> bytes:
    return _attribute(kind, value + b"\0")


def _big(value: int) -> bytes:
    return struct.pack("!I", value)
