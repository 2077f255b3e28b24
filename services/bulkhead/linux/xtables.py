"""The legacy iptables' policy for forwarded packets, read from the kernel (linux/netfilter_ipv4/ip_tables.h).

Only of the table that is loaded already: asking for it would load it.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from pathlib import Path

_LOADED = Path("/proc/thread-self/net/ip_tables_names")
_GET_INFO, _GET_ENTRIES = 64, 65
_TABLE = b"filter"
# name, valid_hooks, hook_entry[5], underflow[5], num_entries, size
_INFO = struct.Struct("=32s13I")
_UNDERFLOW_OF_FORWARD, _SIZE = 1 + 1 + 5 + 2, 13
# What precedes the entries: name, size, and the gap that aligns them to eight bytes.
_HEAD = struct.Struct("=32sI4x")
_TARGET_OFFSET = 84 + 4  # of struct ipt_entry: after struct ipt_ip and nfcache
_VERDICT = 32  # after struct xt_entry_target
_DROP = -1  # -NF_DROP - 1


def forward_drops() -> bool:
    """Whether the chain FORWARD drops what no rule of it accepts, in the calling thread's namespace.

    Raises OSError.
    """
    try:
        if _TABLE.decode() not in _LOADED.read_text().split():
            return False
    except FileNotFoundError:
        return False
    info = _INFO.unpack(_asked(_GET_INFO, _INFO.pack(_TABLE, *[0] * 13)))
    size = info[_SIZE]
    entries = _asked(_GET_ENTRIES, _HEAD.pack(_TABLE, size) + bytes(size))[_HEAD.size :]
    # A built-in chain ends in a rule without conditions: its policy.
    policy = info[_UNDERFLOW_OF_FORWARD]
    (target,) = struct.unpack_from("=H", entries, policy + _TARGET_OFFSET)
    (verdict,) = struct.unpack_from("=i", entries, policy + target + _VERDICT)
    return bool(verdict == _DROP)


def _asked(option: int, question: bytes) -> bytes:
    """getsockopt(2) with a question in the buffer, which Python's own cannot pass."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(question, len(question))
    length = ctypes.c_uint32(len(question))
    with socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW) as kernel:
        if libc.getsockopt(kernel.fileno(), socket.IPPROTO_IP, option, buffer, ctypes.byref(length)) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"iptables: {os.strerror(number)}")
    return buffer.raw
